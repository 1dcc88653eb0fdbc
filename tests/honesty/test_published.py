"""Models whose past is not known, or was rewritten."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.training import FittedModel, TrainingFacts

SHAPES = {"conv0": (8, 16, 1), "conv1": (8, 8, 1), "conv2": (2, 8, 1)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network on bags, as published ones are."""
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model_best.pt"
    tensors = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    torch.save(tensors | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in SHAPES.items()}, path)
    return path


@pytest.fixture
def bags() -> ad.AnnData:
    """Two slides with bags of a published encoder."""
    import pandas as pd

    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"sample": ["a", "b"], "patient": ["P1", "P2"]}, index=["a", "b"])
    adata = ad.AnnData(rng.normal(5, 1, (2, 2)), obs=obs, var=pd.DataFrame(index=["ERBB2", "GATA3"]))
    adata.obsm["X_uni_bag"] = rng.normal(size=(2, 4, 16)).astype(np.float32)
    adata.obsm["X_uni_bag_size"] = np.ones((2, 4), np.float32)
    record = {"encoder": "uni", "tile_um": 128.0, "dim": 16}
    adata.uns["stpredict"] = {"X_uni": record, "unit": {"is": "slide"}, "X_uni_bag": {"features": "X_uni"}}
    return adata


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["unknown", "unknown"]),
        ({"patients": ()}, ["unknown", "unknown"]),
        ({"patients": ["P1"]}, ["True", "False"]),
        ({"patients": [" p2"]}, ["False", "True"]),
        ({"patients": ["P1", "unknown"]}, ["True", "unknown"]),
    ],
)
def test_published_weights_say_what_they_know(bags: ad.AnnData, weights: Path, options: Any, expected: Any) -> None:
    model = stp.training.load_published("he2rna", weights, genes=["ERBB2", "GATA3"], **options)
    stp.tl.predict(bags, model)
    assert bags.obs["predicted_leaky"].astype(str).tolist() == expected


def edited(model: FittedModel, path: Path, change: Any) -> set[Any] | FittedModel:
    """A saved model whose configuration was edited: refused, or read."""
    file = model.save(path) / "config.json"
    config = json.loads(file.read_text())
    change(config["training"])
    file.write_text(json.dumps(config))
    try:
        return FittedModel.load(path)
    except ValueError:
        return {"refused"}


@pytest.mark.parametrize("names", [[], ["P9"]])
def test_an_edited_configuration_is_refused_or_recognized(cohort, ask, first, tmp_path: Path, names: list[str]) -> None:
    model = edited(first, tmp_path / "model", lambda training: training.update(patients=names))
    told = model if isinstance(model, set) else ask.predicted(ask.part(cohort, "P1"), model)
    assert told in ({"refused"}, {True})


def cleared(model: FittedModel) -> FittedModel:
    model.training.patients.clear()
    return model


def cleared_of_all(model: FittedModel) -> FittedModel:
    model.training.patients.clear()
    model.training.content.clear()
    model.training.samples.clear()
    return model


def in_a_new_model(model: FittedModel) -> FittedModel:
    return FittedModel(model.model, model.network, model.target, model.features, TrainingFacts(), model.history)


@pytest.mark.parametrize("change", [cleared, cleared_of_all, in_a_new_model])
def test_a_model_that_names_nobody_is_of_unknown_origin(cohort: ad.AnnData, ask, first, change: Any, tmp_path) -> None:
    model = change(first)
    assert ask.predicted(ask.part(cohort, "P1"), model) == ({True} if change is cleared else {"unknown"})
    assert ask.predicted(ask.part(cohort, "P2"), model) == {"unknown"}
    assert ask.predicted(ask.part(cohort, "P2"), FittedModel.load(model.save(tmp_path / "m"))) == {"unknown"}
    assert ask.predicted(ask.part(cohort, "P3"), [model, ask.fitted(cohort, "P2")]) == {"unknown"}


def test_a_patient_that_was_taken_off_the_list_is_recognized(cohort: ad.AnnData, ask) -> None:
    model = ask.fitted(cohort, "P1", "P2")
    model.training.patients.remove("P1")
    stp.tl.predict(cohort, model)
    told = cohort.obs.groupby("patient", observed=True)["predicted_leaky"].agg(set).to_dict()
    assert told == {"P1": {True}, "P2": {True}, "P3": {False}}


def test_what_a_model_starts_from_stays_unknown(cohort: ad.AnnData, ask, first) -> None:
    nobody = in_a_new_model(deepcopy(first))
    later = stp.tl.fit(cohort, nobody, cohort.obs["patient"].eq("P2").to_numpy(), baselines=[])
    assert later.training.pretraining_patients == ["unknown"]
    assert ask.predicted(ask.part(cohort, "P3"), later) == {"unknown"}
    assert ask.predicted(ask.part(cohort, "P2"), later) == {True}
