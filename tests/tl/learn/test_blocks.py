"""Splits within one section: nothing of a block or its buffer reaches its model, and every table says what they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.cohorts import Fold, spatial_blocks
from stpredict.core._apart import gaps_um
from stpredict.slots._marks import joint_mark, leak_marks, mark_words
from stpredict.training import _validation

QUICK: dict[str, Any] = {"max_epochs": 2, "patience": 0}
SMALL: dict[str, Any] = {
    "ridge": {},
    "mlp": {"training": QUICK},
    "hist": {"hyperparameters": "small", "training": QUICK},
    "hist2st": {"hyperparameters": "small", "training": QUICK},
}
PANEL = {"panel": {"method": "moran", "n_genes": 8}}
SECTION = {"slot": "color-texture", "scaling": "section"}


@pytest.fixture(scope="module")
def _section() -> ad.AnnData:
    adata = stp.datasets.synthetic_cohort(1, 1, 16, n_spots=100, microns_per_pixel=4.0, counts_per_spot=3000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a picture of 4 µm per pixel is enlarged
        stp.pp.image_features(adata, context=(1,))
    stp.pp.normalize(adata)
    stp.pp.grid(adata)
    return adata


@pytest.fixture
def section(_section: ad.AnnData) -> ad.AnnData:
    """One section of 100 spots, 16 genes, an image, color-texture features, a grid."""
    return _section.copy()


def targets_missing(adata: ad.AnnData, outside: np.ndarray, fold: Fold) -> None:
    outside = outside.copy()
    outside[np.flatnonzero(fold.test)[0]] = False  # a fold without anything to be tested on is no fold
    adata.X[outside] = np.nan
    adata.layers["counts"] = adata.layers["counts"].astype(np.float32)
    adata.layers["counts"][outside] = np.nan


def targets_noise(adata: ad.AnnData, outside: np.ndarray, fold: Fold) -> None:
    adata.layers["counts"][outside] = np.random.default_rng(1).poisson(50, (outside.sum(), adata.n_vars))
    stp.pp.normalize(adata)


def features_noise(adata: ad.AnnData, outside: np.ndarray, fold: Fold) -> None:
    rng = np.random.default_rng(1)
    values = adata.obsm["X_color-texture"]
    values[outside] = rng.normal(5, 9, (outside.sum(), values.shape[1]))


def features_of_the_buffer_missing(adata: ad.AnnData, outside: np.ndarray, fold: Fold) -> None:
    adata.obsm["X_color-texture"][outside & ~fold.test] = np.nan


def pixels_noise(adata: ad.AnnData, outside: np.ndarray, fold: Fold) -> None:
    """Noise wherever no tile of a training spot is."""
    images = adata.uns["spatial"]["P1_S1"]["images"]
    y, x = np.mgrid[: images["hires"].shape[0], : images["hires"].shape[1]]
    far = gaps_um(np.column_stack([x.ravel(), y.ravel()]), adata.obsm["spatial"][fold.train]).reshape(x.shape) > 30
    noise = np.random.default_rng(1).integers(0, 255, images["hires"].shape, dtype=np.uint8)
    images["hires"] = np.where(far[..., None], noise, images["hires"])


def weights(adata: ad.AnnData, fold: Fold, model: str) -> tuple[list[str], dict[str, torch.Tensor], dict[str, Any]]:
    """Panel, tensors and remembered spots of the model of a fold."""
    [fitted] = stp.tl.fit_folds(
        adata, model, splitter=[fold], target=PANEL, features=SECTION, baselines=False, n_jobs=1, **SMALL[model]
    )
    return fitted.panel, fitted.network.state_dict(), fitted.training.content[0]


CHANGES = [targets_missing, targets_noise, features_noise, features_of_the_buffer_missing]
CASES = [(model, change) for model in ("ridge", "mlp", "hist") for change in CHANGES]
CASES += [("hist2st", change) for change in (targets_missing, targets_noise, pixels_noise)]


@pytest.fixture(scope="module")
def untouched(_section: ad.AnnData) -> Callable[[str], Any]:
    """Models of the object as it is."""
    known: dict[str, Any] = {}

    def of(model: str) -> Any:
        if model not in known:
            known[model] = weights(_section.copy(), spatial_blocks(_section, 4, 300.0)[1], model)
        return known[model]

    return of


@pytest.mark.filterwarnings("ignore:nobody wrote down", "ignore:model .* predicts 25 of 25")
@pytest.mark.parametrize(("model", "change"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_a_block_and_its_buffer_change_nothing(
    section: ad.AnnData, untouched: Callable[[str], Any], model: str, change: Callable[..., None]
) -> None:
    fold = spatial_blocks(section, 4, 300.0)[1]
    outside = ~fold.train
    assert (outside & ~fold.test).sum() > 3
    panel, tensors, content = untouched(model)
    change(section, outside, fold)
    again, changed, known = weights(section, fold, model)
    assert again == panel
    assert known == content
    assert changed.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, changed[name]), name


@pytest.mark.parametrize(("buffer", "context"), [(300.0, 1.0), (400.0, 3.0)])
def test_the_inner_stripe_has_the_buffer_of_the_block(
    section: ad.AnnData, monkeypatch: pytest.MonkeyPatch, buffer: float, context: float
) -> None:
    found: list[Any] = []
    sides = _validation.inner_sides

    def inner_sides(*arguments: Any) -> Any:
        found.append((arguments[0], *sides(*arguments)))
        return found[-1][1:]

    monkeypatch.setattr("stpredict.training._fit_arrays.inner_sides", inner_sides)
    section.uns["stpredict"]["X_color-texture"]["context"] = [context]
    fold = spatial_blocks(section, 4, buffer)[1]
    options: dict[str, Any] = {"features": "color-texture", "baselines": False, "training": QUICK | {"patience": 2}}
    stp.tl.fit_folds(section, "mlp", splitter=[fold], **options)
    stp.tl.fit(section, "mlp", fold.train, **options)
    for (data, train, validation, unit), wide in zip(found, (buffer, 1.1 * 112 * context), strict=True):
        assert unit == "stripe"
        assert data.reach_um == pytest.approx(wide)
        assert gaps_um(train["positions"], validation["positions"]).min() >= wide
        assert (len(train) + len(validation) < len(data)) == (wide > 200)  # spots are 200 µm apart


def test_what_is_changed_in_training_changes_the_model(section: ad.AnnData, untouched: Callable[[str], Any]) -> None:
    """The comparison above can fail."""
    fold = spatial_blocks(section, 4, 300.0)[1]
    section.obsm["X_color-texture"][np.flatnonzero(fold.train)[0]] += 1
    _, tensors, _ = untouched("ridge")
    _, changed, _ = weights(section, fold, "ridge")
    assert any(not torch.equal(tensor, changed[name]) for name, tensor in tensors.items())


@pytest.mark.filterwarnings("ignore:nobody wrote down")
@pytest.mark.parametrize("model", ["ridge", "hist"])
def test_features_outside_may_be_missing(section: ad.AnnData, model: str) -> None:
    fold = spatial_blocks(section, 4, 300.0)[2]
    options: dict[str, Any] = {"features": SECTION, "baselines": False, **SMALL[model]}
    before = stp.tl.fit(section, model, fold.train, **options).network.state_dict()
    section.obsm["X_color-texture"][~fold.train] = np.nan
    section.X[~fold.train] = np.nan
    after = stp.tl.fit(section, model, fold.train, **options).network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_tables_say_within_section(section: ad.AnnData) -> None:
    scores = stp.tl.cross_validate(section, ["ridge", "mean"], "blocks", metrics=["pearson"])
    assert set(scores["leaky"]) == {"within section"}
    assert list(scores["block"].unique()) == [f"P1_S1 block {i}" for i in (1, 2, 3, 4)]
    assert set(scores["n_obs"]) == {25}
    summary = stp.tl.summarize(scores)
    assert set(summary["leaky"]) == {"within section"}
    assert set(summary["interval_over"]) == {"blocks"}
    assert set(summary["n_blocks"]) == {4}
    assert "within section" in str(summary)
    assert "blocks" in str(summary)
    ridge = scores[scores["model"] == "ridge"]
    wanted = ridge.groupby("block")["pearson"].mean()
    row = summary.set_index("model").loc["ridge"]
    assert row["pearson"] == pytest.approx(wanted.mean())
    assert wanted.min() <= row["low"] < row["pearson"] < row["high"] <= wanted.max()
    # By hand: the first block alone.
    key = scores.attrs["keys"]["ridge"]
    one = section[section.obs[f"{key}_fold"] == 0]
    by_hand = stp.metrics.pearson(one.X.toarray(), stp.get.predicted(one, key).X)
    first = ridge[ridge["block"] == "P1_S1 block 1"].set_index("gene")["pearson"]
    np.testing.assert_allclose(first.loc[one.var_names], by_hand, rtol=1e-5)
    titles = [ax.get_title() for ax in np.ravel(stp.pl.genes(section, [section.var_names[0]], key=key))]
    assert any("within section" in title for title in titles)


def test_blocks_beside_whole_sections(section: ad.AnnData) -> None:
    """A prediction that is not within a section is scored on the same blocks, and keeps its own mark."""
    stp.tl.cross_validate(section, ["ridge"], "blocks", baselines=False, metrics=["pearson"])
    stp.tl.predict(section, stp.tl.fit(section, "mean", baselines=False), key_added="whole")
    table = stp.tl.evaluate(section, ["predicted_ridge", "whole"], metrics=["pearson"], ceiling=False, baselines=False)
    marks = table.groupby("model")["leaky"].unique()
    assert list(marks["ridge"]) == ["within section"]
    assert list(marks["mean"]) == [True]
    alone = stp.tl.evaluate(section, "whole", metrics=["pearson"], ceiling=False, baselines=False)
    assert "block" not in alone


def test_sections_are_split_by_themselves(cohort: ad.AnnData) -> None:
    one = cohort[cohort.obs["patient"] == "P1"].copy()
    scores = stp.tl.cross_validate(one, ["ridge"], spatial_blocks(one, 2, 130.0), metrics=["pearson"], baselines=False)
    assert set(scores["leaky"]) == {"within section"}
    assert scores["block"].nunique() == 4
    fold = spatial_blocks(one, 2, 130.0)[0]
    other = (one.obs["sample"] != one.obs["sample"].to_numpy()[fold.test][0]).to_numpy()
    wider = replace(fold, train=fold.train | other)  # a neighboring section of the same tissue
    with pytest.raises(ValueError, match="within one section of a patient; found P1_S2 beside it"):
        stp.tl.cross_validate(one, ["ridge"], [wider])
    leaky = stp.tl.cross_validate(one, ["ridge"], [wider], allow_leakage=True, metrics=["pearson"], baselines=False)
    assert set(leaky["leaky"]) == {True}
    assert "block" not in leaky
    strangers = cohort[cohort.obs["patient"] != "P3"].copy()
    fold = spatial_blocks(strangers, 2, 130.0)[0]
    wider = replace(fold, train=fold.train | (strangers.obs["patient"] == "P2").to_numpy())
    table = stp.tl.cross_validate(strangers, ["ridge"], [wider], metrics=["pearson"], baselines=False)
    assert set(table["leaky"]) == {"within section"}


@pytest.mark.parametrize("reader", ["slot", "patches"])
def test_a_buffer_that_is_too_narrow_is_refused(section: ad.AnnData, reader: str) -> None:
    folds = spatial_blocks(section, 4, 130.0)
    record = section.uns["stpredict"]["X_color-texture"]
    models: Any = ["ridge"]
    if reader == "slot":
        section.uns["stpredict"] = {**section.uns["stpredict"], "X_color-texture": {**record, "context": [1.0, 5.0]}}
    else:
        models = {"color": {"model": "color", "hyperparameters": {"patch_um": 400.0}, "training": QUICK}}
    with pytest.raises(ValueError, match=r"at least (560|400) µm apart.*found .* µm; pass splitter=stp.cohorts"):
        stp.tl.cross_validate(section, models, folds, baselines=False)
    options: dict[str, Any] = {"baselines": False, "metrics": ["pearson"]}
    if reader == "slot":
        assert set(stp.tl.cross_validate(section, models, folds, allow_leakage=True, **options)["leaky"]) == {True}
        assert set(stp.tl.cross_validate(section, models, "blocks", **options)["leaky"]) == {"within section"}


def test_an_unknown_field_of_view_needs_a_number(section: ad.AnnData) -> None:
    section.uns["stpredict"] = {**section.uns["stpredict"], "X_color-texture": {"encoder": "mine"}}
    with pytest.raises(ValueError, match=r"size of their tiles.*found none for ridge.*buffer_um"):
        stp.tl.cross_validate(section, ["ridge"], "blocks")
    stp.tl.cross_validate(section, ["ridge"], spatial_blocks(section, 4, 150), baselines=False, metrics=["pearson"])


def test_genes_chosen_on_the_whole_section_are_refused(section: ad.AnnData) -> None:
    stp.pp.select_genes(section, "moran", n_genes=8)
    with pytest.raises(ValueError, match="whose test block would have a part.*P1; pass target="):
        stp.tl.cross_validate(section, ["ridge"], "blocks")
    listed = list(section.var_names[section.var["selected"]])
    with pytest.raises(ValueError, match="whose test block would have a part"):
        stp.tl.cross_validate(section, ["ridge"], "blocks", target=listed)
    options: dict[str, Any] = {"baselines": False, "metrics": ["pearson"]}
    assert set(stp.tl.cross_validate(section, ["ridge"], "blocks", allow_leakage=True, **options)["leaky"]) == {True}
    assert set(stp.tl.cross_validate(section, ["ridge"], "blocks", target=PANEL, **options)["leaky"]) == {
        "within section"
    }


def test_a_model_that_knows_the_patient_leaks(section: ad.AnnData) -> None:
    start = stp.tl.fit(section, "mlp", baselines=False, training=QUICK)
    models = {"again": {"model": start, "training": QUICK}}
    table = stp.tl.cross_validate(section, models, "blocks", baselines=False, metrics=["pearson"])
    assert set(table["leaky"]) == {True}


def test_retrieval_finds_the_rest_of_the_section(section: ad.AnnData) -> None:
    models = {"bleep": {"model": "bleep", "hyperparameters": {"image_encoder": "features"}, "training": QUICK}}
    table = stp.tl.cross_validate(section, models, "blocks", baselines=False, metrics=["pearson"])
    assert set(table["leaky"]) == {"within section"}
    assert table["pearson"].notna().any()


def test_inputs_of_whole_sections_are_those_of_a_side(section: ad.AnnData) -> None:
    """Neither side sees the other, and both are standardized by the training rows."""
    from types import SimpleNamespace

    from stpredict.slots._rows import rows_of
    from stpredict.tl.learn._blocks import sides_of
    from stpredict.training import ArraySet, WholeSections

    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, (100, 4)).astype(np.float32)
    fold = spatial_blocks(section, 4, 300.0)[0]
    rows = rows_of(section)
    zeros = np.zeros(100, dtype=np.int64)
    whole = WholeSections(zeros, np.arange(100), {"section_features": values})
    arrays = ArraySet(zeros, zeros, {"features": values}, whole=whole)
    task: Any = SimpleNamespace(scaling="section")
    train, test = sides_of(arrays, fold, task, rows, fold.train, fold.test, raw=True)
    known = values[fold.train].astype(np.float64)
    for side, mask in ((train, fold.train), (test, fold.test)):
        wanted = ((values[mask] - known.mean(axis=0)) / known.std(axis=0)).astype(np.float32)
        np.testing.assert_allclose(side["features"], wanted, rtol=1e-5, atol=1e-6)
        assert side.whole is not None
        np.testing.assert_allclose(side.whole.inputs["section_features"][side.whole.row], wanted, rtol=1e-5, atol=1e-6)
        assert len(side.whole.code) == mask.sum()
        np.testing.assert_array_equal(side.whole.code, side.section)
    assert not set(train.section) & set(test.section)


def test_marks_travel(section: ad.AnnData, tmp_path: Any) -> None:
    stp.tl.cross_validate(section, ["ridge"], "blocks", baselines=False, metrics=["pearson"])
    key = "predicted_ridge"
    section.write_h5ad(tmp_path / "section.h5ad")
    again = ad.read_h5ad(tmp_path / "section.h5ad")
    assert joint_mark(leak_marks(again, key)) == "within section" == mark_words("within section")
    again.obsm["copy"] = again.obsm[key]
    assert joint_mark(leak_marks(again, "copy")) == "unknown"
    del again.obs[f"{key}_leaky"]
    assert joint_mark(leak_marks(again, key)) == "unknown"
    assert joint_mark([2, 0]) == "within section"
    assert joint_mark([2, -1, 0]) == "unknown"
    assert joint_mark([2, 1]) is True
    assert joint_mark(["within section", "False"]) == "within section"
