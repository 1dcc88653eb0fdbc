"""What all attempts share: a small cohort of color features, quick models, and the one question of how a score is marked."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp

QUICK: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False, "baselines": False}


def part(adata: ad.AnnData, name: str, column: str = "patient") -> ad.AnnData:
    return adata[adata.obs[column].astype(str) == name].copy()


def train(adata: ad.AnnData, *names: str) -> np.ndarray:
    return adata.obs["patient"].astype(str).isin(names).to_numpy()


def marks(adata: ad.AnnData, key: str = "predicted", **options: Any) -> set[Any]:
    return set(stp.tl.evaluate(adata, key, **QUICK, **options)["leaky"].tolist())


def predicted(adata: ad.AnnData, model: Any, **options: Any) -> set[Any]:
    stp.tl.predict(adata, model)
    return marks(adata, **options)


def validated(adata: ad.AnnData, **options: Any) -> set[Any]:
    try:
        return set(stp.tl.cross_validate(adata, ["ridge"], **QUICK, **options)["leaky"].tolist())
    except (KeyError, ValueError):
        return {"refused"}


def fitted(adata: ad.AnnData, *names: str, **options: Any) -> Any:
    return stp.tl.fit(adata, "ridge", train(adata, *names), baselines=[], **options)


@pytest.fixture(scope="session")
def ask() -> SimpleNamespace:
    """The questions of all attempts.

    `part(adata, name)`: a patient of an object; `fitted(adata, *patients)`: a model of some; `marks(adata)`: how the scores of
    a prediction are marked; `predicted(adata, model)`: those of a model; `validated(adata)`: those of a cross-validation,
    or `{"refused"}`.
    """
    return SimpleNamespace(part=part, fitted=fitted, marks=marks, predicted=predicted, validated=validated, quick=QUICK)


@pytest.fixture(scope="session")
def _first(_cohort: ad.AnnData) -> Any:
    return fitted(_cohort.copy(), "P1")


@pytest.fixture
def first(_first: Any) -> Any:
    """A model of the first patient, with facts of its own to be changed."""
    return deepcopy(_first)
