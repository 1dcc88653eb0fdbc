"""What a network on maps is compared with: linear models of what is easier to have."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from stpredict.tl.outcomes._linear import fit_linear_outcome

if TYPE_CHECKING:
    from stpredict.tl.outcomes._cohort import Cohort
    from stpredict.tl.outcomes._linear import LinearOutcome
    from stpredict.tl.outcomes._maps import DenseMaps

MAJORITY = "majority"


def baseline_inputs(maps: DenseMaps, covariates: np.ndarray) -> dict[str, np.ndarray]:
    """What each baseline reads (n, d)."""
    inputs: dict[str, np.ndarray] = {}
    mean = maps.mean
    if covariates.shape[1]:
        inputs["clinical"] = covariates
    if mean.shape[1]:
        inputs["mean map"] = mean
    if len(inputs) == 2:
        inputs["clinical + mean map"] = np.concatenate([covariates, mean], axis=1)
    if maps.features is not None:
        inputs["image features"] = maps.features
    return inputs


def fit_baselines(
    cohort: Cohort, covariates: np.ndarray, train: np.ndarray, inner: np.ndarray, names: Collection[str] | None = None
) -> dict[str, LinearOutcome]:
    """Fit some baselines, or all, to the training side, with the penalty that its inner folds choose."""
    values = cohort.values[train]
    outcome = {"time": values[:, 0], "event": values[:, 1]} if cohort.is_risk else {"label": values}
    return {
        name: fit_linear_outcome(x[train], inner, **outcome)
        for name, x in baseline_inputs(cohort.maps, covariates).items()
        if names is None or name in names
    }


def majority(cohort: Cohort, train: np.ndarray) -> np.ndarray:
    """The same log risk, or logit of the class that is more frequent on the training side, for everybody (n,)."""
    constant = 0.0 if cohort.is_risk else 20.0 * np.sign(2 * cohort.values[train].mean() - 1)
    return np.full(len(train), constant)
