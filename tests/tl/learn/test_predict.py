from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record


@pytest.fixture
def mask(toy) -> np.ndarray:
    return (toy.obs["patient"] != "p0").to_numpy()


@pytest.fixture
def model(toy, mask):
    return stp.tl.fit(toy.copy(), "ridge", mask)


def test_writes_what_it_says(toy, model) -> None:
    assert stp.tl.predict(toy, model) is None
    frame = prediction_frame(toy, "predicted")
    assert isinstance(frame, pd.DataFrame)
    assert frame.shape == (72, 6)
    assert list(frame.columns) == model.panel
    assert frame.index.equals(toy.obs_names)
    assert (toy.obsm["predicted_std"] > 0).all(axis=None)
    training = toy.X[(toy.obs["patient"] != "p0").to_numpy()]
    np.testing.assert_allclose(
        prediction_frame(toy, "predicted_baseline_mean").iloc[0], training.mean(axis=0), rtol=1e-5
    )
    assert toy.obs["predicted_leaky"].tolist() == (toy.obs["patient"] != "p0").tolist()
    record = read_record(toy, "predicted")
    assert (record["model"], record["seed"]) == ("ridge", 0)
    assert record["training_patients"] == ["p1", "p2"]


def test_copy_equals_in_place(toy, model, frozen) -> None:
    before = frozen(toy)
    changed = stp.tl.predict(toy, model, copy=True)
    assert frozen(toy) == before
    stp.tl.predict(toy, model)
    assert frozen(toy) == frozen(changed)


def test_loaded_model_predicts_the_same(toy, model, tmp_path) -> None:
    path = model.save(tmp_path / "model")
    stp.tl.predict(toy, model, key_added="a")
    stp.tl.predict(toy, path, key_added="b")
    stp.tl.predict(toy, str(path), key_added="c", batch_size=7)
    pd.testing.assert_frame_equal(prediction_frame(toy, "a"), prediction_frame(toy, "b"))
    pd.testing.assert_frame_equal(prediction_frame(toy, "b"), prediction_frame(toy, "c"), rtol=1e-5)


def test_object_can_be_stored_and_used_again(toy, mask, tmp_path) -> None:
    stp.tl.fit(toy, "ridge", mask)
    stp.tl.predict(toy)
    toy.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(prediction_frame(again, "predicted"), prediction_frame(toy, "predicted"))
    stp.tl.predict(again, key_added="second")
    pd.testing.assert_frame_equal(prediction_frame(again, "second"), prediction_frame(toy, "predicted"))


def test_a_new_prediction_drops_what_belonged_to_the_old(toy, model, mask) -> None:
    stp.tl.predict(toy, model)
    bare = stp.tl.fit(toy.copy(), "mlp", mask, training={"max_epochs": 1}, baselines=())
    stp.tl.predict(toy, bare)
    assert [key for key in toy.obsm if key.startswith("predicted")] == ["predicted"]


def test_no_expression_is_needed(toy, model) -> None:
    new = ad.AnnData(obs=toy.obs[["sample", "patient"]], obsm=dict(toy.obsm), uns={"spatial": toy.uns["spatial"]})
    new.uns["stpredict"] = {"X_toy": toy.uns["stpredict"]["X_toy"]}
    stp.tl.predict(new, model)
    stp.tl.predict(toy, model)
    pd.testing.assert_frame_equal(prediction_frame(new, "predicted"), prediction_frame(toy, "predicted"))


def test_order_of_observations_does_not_matter(toy, model) -> None:
    order = np.random.default_rng(0).permutation(72)
    shuffled = toy[order].copy()
    stp.tl.predict(toy, model)
    stp.tl.predict(shuffled, model)
    pd.testing.assert_frame_equal(
        prediction_frame(shuffled, "predicted").loc[toy.obs_names], prediction_frame(toy, "predicted"), rtol=1e-5
    )


def record(toy, **changes) -> None:
    toy.uns["stpredict"] = {**toy.uns["stpredict"], "X_toy": {**toy.uns["stpredict"]["X_toy"], **changes}}


def other_normalization(**options):
    return lambda toy: stp.pp.normalize(toy, method="log1p", **options)


@pytest.mark.parametrize("factor", [1.0, 1.019, 1 / 1.019, 0.998])
def test_sizes_that_differ_by_rounding_are_the_same(toy, model, factor) -> None:
    stp.tl.predict(toy, model)
    expected = stp.get.predicted(toy).X
    record(toy, tile_um=100.0 * factor)
    stp.tl.predict(toy, model)
    np.testing.assert_array_equal(stp.get.predicted(toy).X, expected)
    noted = toy.uns["stpredict"]["predicted"].get("tile_um")
    assert noted == (None if factor == 1 else {"X_toy": {"model": 100.0, "data": 100.0 * factor}})


@pytest.mark.parametrize("factor", [1.021, 1 / 1.021])
def test_sizes_that_differ_by_more_are_refused(toy, model, factor) -> None:
    record(toy, tile_um=100.0 * factor)
    with pytest.raises(ValueError, match="tile_um: model 100.0"):
        stp.tl.predict(toy, model)


def test_the_message_names_the_calls_that_help(toy, model) -> None:
    record(toy, tile_um=50.0)
    toy.obs["tile_id"] = np.arange(72)  # the tiles of a slide
    with pytest.raises(
        ValueError, match=r"stp.pp.tiles\(slide, like=model\), then stp.pp.image_features\(slide, 'toy'\)"
    ):
        stp.tl.predict(toy, model)
    del toy.obs["tile_id"]
    toy.uns["stpredict"]["read"] = {"reader": "from_tiles"}
    with pytest.raises(ValueError, match=r"tiles of 100 µm with stp.io.from_tiles\(folder, 'toy', microns_per_pixel"):
        stp.tl.predict(toy, model)
    record(toy, tile_um=100.0, context=[1.0, 3.0])
    context = stp.tl.fit(toy.copy(), "ridge", (toy.obs["patient"] != "p2").to_numpy())
    del toy.uns["stpredict"]["read"]
    record(toy, context=[1.0])
    with pytest.raises(ValueError, match=r"'toy', tile_um=100, context=\(1, 3\)\)"):
        stp.tl.predict(toy, context)


BAD = {
    "tile": (lambda a: record(a, tile_um=50.0), ValueError, r"tile_um: model 100.0, data 50.0; run stp.pp.image_features\(adata, 'toy', tile_um=100\)"),
    "joined": (lambda a: a.uns.clear(), ValueError, r"no record of how it was made, as anndata.concat drops it; join objects with "
               r"stp.concat, which keeps records, or run stp.pp.image_features"),
    "encoder": (lambda a: record(a, encoder="uni"), ValueError, r"encoder: model 'toy', data 'uni'"),
    "coarser": (lambda a: record(a, microns_per_pixel={"s0": 2.0}), ValueError,
                r"coarsest_um_per_px: model 0.5, data 2.0"),
    "width": (lambda a: a.obsm.__setitem__("X_toy", a.obsm["X_toy"][:, :3]), ValueError, r"dim: model 4, data 3"),
    "absent": (lambda a: a.obsm.__delitem__("X_toy"), KeyError, r"obsm\['X_toy'\].*image_features\(adata, 'toy', tile_um=100\)"),
    "nan": (lambda a: a.obsm["X_toy"].__setitem__((2, 2), np.nan), ValueError, r"1 rows \(first: 2\)"),
    "target_sum": (other_normalization(target_sum=100), ValueError,
                   r"\{'target_sum': 10000.0\}; found \{'target_sum': 100.0\}; run stp.pp.normalize"),
    "panel": (other_normalization(size_factors="panel", panel=["G1", "G2"]), ValueError,
              r"'all'.*'0 genes'.*'panel'.*'2 genes'"),
    "patient": (lambda a: a.obs.drop(columns="patient", inplace=True), KeyError, r"obs\['patient'\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_other_inputs_are_refused_with_both_sides(toy, model, frozen, case: str) -> None:
    change, error, message = BAD[case]
    change(toy)
    before = frozen(toy)
    with pytest.raises(error, match=message):
        stp.tl.predict(toy, model)
    assert frozen(toy) == before


def test_finer_images_are_fine(toy, model) -> None:
    record(toy, microns_per_pixel={"s0": 0.1})
    stp.tl.predict(toy, model)
    assert "predicted" in toy.obsm


def test_a_path_that_only_the_object_names_is_said(toy, tmp_path) -> None:
    """An object of somebody else may name any path."""
    theirs = stp.tl.fit(toy, "mean", path=tmp_path / "theirs", baselines=False)
    other = toy.copy()
    with pytest.warns(UserWarning, match=f"no model was named.*{tmp_path}/theirs"):
        stp.tl.predict(toy)
    stp.tl.fit_folds(toy, "mean", 3, baselines=False, path=tmp_path / "folds")
    with pytest.warns(UserWarning, match=f"no model was named.*{tmp_path}/folds/fold0, .*fold1"):
        stp.tl.predict(toy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (theirs, tmp_path / "theirs"):
            stp.tl.predict(other, model)


def test_no_model(toy, frozen, tmp_path) -> None:
    before = frozen(toy)
    with pytest.raises(KeyError, match=r"uns\['stpredict'\]\['model'\]; pass the model that stp.tl.fit returned"):
        stp.tl.predict(toy)
    with pytest.raises(FileNotFoundError, match="no config.json"):
        stp.tl.predict(toy, tmp_path)
    assert frozen(toy) == before
    for record in ({}, {"path": 5}, {"path": []}, {"path": np.array([1, 2])}):
        toy.uns["stpredict"]["model"] = record
        with pytest.raises(KeyError, match="expected a model; found none"):
            stp.tl.predict(toy)
