"""The mark of a leak where columns and records were lost, copied or changed."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._marks import joint_mark, leak_marks, mark_words
from stpredict.slots._prediction import prediction_frame

QUICK: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False, "baselines": False}


@pytest.fixture
def predicted(toy: ad.AnnData) -> ad.AnnData:
    """Predictions by a model of the first patient."""
    stp.pp.normalize(toy)
    model = stp.tl.fit(toy, "ridge", (toy.obs["patient"] == "p0").to_numpy(), baselines=[])
    stp.tl.predict(toy, model)
    return toy


def marks(adata: ad.AnnData, key: str = "predicted") -> dict[str, Any]:
    return stp.tl.evaluate(adata, key, **QUICK).groupby("patient")["leaky"].agg(lambda part: part.unique()[0]).to_dict()


def without_column(adata: ad.AnnData) -> None:
    del adata.obs["predicted_leaky"]


def without_record(adata: ad.AnnData) -> None:
    adata.obsm["predicted"] = prediction_frame(adata, "predicted")  # an array would have lost its genes
    del adata.uns["stpredict"]["predicted"]


def without_either(adata: ad.AnnData) -> None:
    without_column(adata)
    without_record(adata)


def with_gaps(adata: ad.AnnData) -> None:
    adata.obs["predicted_leaky"] = adata.obs["predicted_leaky"].astype(object).where(adata.obs["patient"] != "p2", None)


def as_text(adata: ad.AnnData) -> None:
    adata.obs["predicted_leaky"] = adata.obs["predicted_leaky"].astype(str).astype("category")


def set_to_false(adata: ad.AnnData) -> None:
    adata.obs["predicted_leaky"] = False


def of_an_older_record(adata: ad.AnnData) -> None:
    without_column(adata)
    del adata.uns["stpredict"]["predicted"]["patients_seen"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda adata: None, [True, False, False]),
        (without_column, [True, False, False]),
        (without_record, [True, False, False]),
        (without_either, ["unknown"] * 3),
        (with_gaps, [True, False, "unknown"]),
        (as_text, [True, False, False]),
        (set_to_false, [True, False, False]),
        (of_an_older_record, [True, "unknown", "unknown"]),
    ],
)
def test_marks_of_changed_objects(predicted: ad.AnnData, change: Any, expected: list[Any]) -> None:
    change(predicted)
    assert list(marks(predicted).values()) == expected


def test_a_copied_slot_is_of_unknown_origin(predicted: ad.AnnData) -> None:
    predicted.obsm["mine"] = prediction_frame(predicted, "predicted")
    assert set(marks(predicted, "mine").values()) == {"unknown"}
    both = stp.tl.evaluate(predicted, ["predicted", "mine"], **QUICK)
    assert both.groupby("model")["leaky"].agg(set).to_dict() == {"ridge": {True, False}, "mine": {"unknown"}}


def test_marks_survive_a_file_and_a_join(predicted: ad.AnnData, tmp_path: Any) -> None:
    predicted.obsm["predicted"] = prediction_frame(predicted, "predicted")
    parts = [predicted[predicted.obs["patient"] == name].copy() for name in ("p0", "p1", "p2")]
    joined = ad.concat(parts)
    stp.pp.normalize(joined)
    joined.write_h5ad(tmp_path / "joined.h5ad")
    assert list(marks(ad.read_h5ad(tmp_path / "joined.h5ad")).values()) == [True, False, False]


def test_out_of_fold_predictions_without_their_column_are_unknown(toy: ad.AnnData) -> None:
    stp.pp.normalize(toy)
    assert not stp.tl.cross_validate(toy, ["ridge"], **QUICK)["leaky"].any()
    del toy.obs["predicted_ridge_leaky"]
    assert set(marks(toy, "predicted_ridge").values()) == {"unknown"}


@pytest.mark.parametrize("key", ["chosen", "highly_variable"])
def test_a_panel_without_a_record_is_of_unknown_origin(toy: ad.AnnData, key: str, tmp_path: Any) -> None:
    stp.pp.normalize(toy)
    toy.var[key] = pd.array(["True", "False"] * 3, dtype="string")
    train = (toy.obs["patient"] == "p0").to_numpy()
    model = stp.tl.fit(toy, "ridge", train, target=stp.targets.Expression(panel=key), baselines=[])
    assert model.panel == ["G0", "G2", "G4"]
    stp.tl.predict(toy, model)
    assert list(marks(toy).values()) == [True, "unknown", "unknown"]
    toy.write_h5ad(tmp_path / "a.h5ad")
    assert list(marks(ad.read_h5ad(tmp_path / "a.h5ad")).values()) == [True, "unknown", "unknown"]
    scores = stp.tl.cross_validate(toy, ["ridge"], target=stp.targets.Expression(panel=key), **QUICK)
    assert set(scores["leaky"]) == {"unknown"}
    later = stp.tl.fit(toy, model, toy.obs["patient"].eq("p1").to_numpy(), baselines=[], target=model.panel)
    stp.tl.predict(toy, later)
    assert list(marks(toy).values()) == [True, True, "unknown"]


def test_weights_of_nobody_are_of_unknown_origin(predicted: ad.AnnData) -> None:
    model = stp.tl.fit(predicted, "ridge", baselines=[])
    model.training.patients.clear()
    stp.tl.predict(predicted, model)
    assert set(marks(predicted).values()) == {"unknown"}


@pytest.mark.parametrize("how", ["no record", "no patients", "another column"])
def test_a_selection_that_lost_its_record_is_refused(toy: ad.AnnData, how: str, frozen: Any) -> None:
    stp.pp.normalize(toy)
    key = "mine" if how == "another column" else "selected"
    stp.pp.select_genes(toy, "mean", n_genes=3, key_added=key)
    if how == "no record":
        del toy.uns["stpredict"]["selected"]
    else:  # as anndata.concat(uns_merge="unique") leaves it
        del toy.uns["stpredict"][key]["patients"]
    target = stp.targets.Expression(panel=None if key == "selected" else key)
    train = (toy.obs["patient"] == "p0").to_numpy()
    before = frozen(toy)
    for call in (
        lambda: stp.tl.fit(toy, "ridge", train, target=target),
        lambda: stp.tl.cross_validate(toy, ["ridge"], target=target, **QUICK),
        lambda: stp.tl.fit_folds(toy, "ridge", 2, target=target),
    ):
        with pytest.raises(ValueError, match=rf"expected the record of var\['{key}'\].*select_genes"):
            call()
    assert frozen(toy) == before
    scores = stp.tl.cross_validate(toy, ["ridge"], target=target, allow_leakage=True, **QUICK)
    assert set(scores["leaky"]) == {"unknown"}


@pytest.mark.parametrize("lost", ["theta", "size_factors", "method"])
def test_half_a_normalization_is_refused(predicted: ad.AnnData, lost: str) -> None:
    del predicted.uns["stpredict"]["normalize"][lost]
    for call in (
        lambda: stp.tl.fit(predicted, "ridge"),
        lambda: stp.tl.evaluate(predicted, **QUICK),
        lambda: stp.tl.cross_validate(predicted, ["ridge"]),
    ):
        with pytest.raises(ValueError, match=rf"found one without .*{lost}.*stp.pp.normalize"):
            call()


def test_joined_bulk_of_two_units_is_refused(toy: ad.AnnData) -> None:
    parts = [toy[:36].copy(), toy[36:].copy()]
    for part, unit in zip(parts, ("fpkm-uq", "tpm"), strict=True):
        del part.uns["stpredict"]["normalize"]
        part.X = part.X * 10
        stp.pp.normalize(part, unit=unit)
    joined = ad.concat(parts, uns_merge="unique")
    with pytest.raises(ValueError, match="found one without unit"):
        stp.tl.fit(joined, "ridge", features="X_toy")


def test_repeated_names_outside_the_panel_are_named(toy: ad.AnnData) -> None:
    stp.pp.normalize(toy)
    toy.var_names = ["A", "A", "B", "C", "D", "D"]
    for target in (None, ["B", "C"], {"panel": {"method": "mean", "n_genes": 2}}):
        with pytest.raises(ValueError, match=r"var_names_make_unique.*found A, D"):
            stp.tl.fit(toy, "ridge", target=target)


@pytest.mark.parametrize(
    ("given", "expected", "words"),
    [
        ([False, True, "unknown"], True, "leaky"),
        (["False", "unknown"], "unknown", "leak unknown"),
        ([np.False_, "False ", 0], False, ""),
        (np.array([0, -1]), "unknown", "leak unknown"),
        ([False, None], "unknown", "leak unknown"),
        ([], False, ""),
    ],
)
def test_joint_marks(given: Any, expected: Any, words: str) -> None:
    assert joint_mark(given) == expected
    assert mark_words(joint_mark(given)) == words


def test_marks_without_patients(predicted: ad.AnnData) -> None:
    del predicted.obs["patient"]
    assert leak_marks(predicted, "predicted").tolist() == [1] * 24 + [0] * 48
    assert leak_marks(predicted, "other").tolist() == [-1] * 72
