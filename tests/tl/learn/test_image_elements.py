"""Folds of a SpatialData whose images are its elements, with networks that read pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._prediction import prediction_frame

COLOR: dict[str, Any] = {
    "hyperparameters": {"patch_px": 8, "patch_um": 40.0},
    "training": {"max_epochs": 1, "patience": 0},
}
QUICK: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False}


@pytest.fixture(scope="module")
def _adata() -> Any:
    pytest.importorskip("spatialdata")
    adata = stp.datasets.synthetic_cohort(3, 1, 6, n_spots=25, microns_per_pixel=4.0)
    stp.pp.image_features(adata)
    stp.pp.normalize(adata)
    return adata


@pytest.fixture
def adata(_adata: Any) -> Any:
    return _adata.copy()


@pytest.fixture
def sdata(adata: Any) -> Any:
    """The same sections; what `uns` says of them is their µm per pixel."""
    sdata = stp.io.to_spatialdata(adata)
    uns = sdata.tables["table"].uns
    uns["spatial"] = {
        name: {"scalefactors": {"microns_per_pixel": entry["scalefactors"]["microns_per_pixel"]}}
        for name, entry in uns["spatial"].items()
    }
    assert len(sdata.images) == 3
    return sdata


def test_the_table_alone_has_no_images(sdata: Any) -> None:
    with pytest.raises(KeyError, match="full-resolution image of section"):
        stp.tl.fit_folds(sdata.tables["table"], "color", 3, **COLOR)
    assert "predicted" not in sdata.tables["table"].obsm


def test_fit_folds(adata: Any, sdata: Any) -> None:
    expected = stp.tl.fit_folds(adata, "color", 3, features="color-texture", **COLOR)
    found = stp.tl.fit_folds(sdata, "color", 3, features="color-texture", **COLOR)
    table = sdata.tables["table"]
    assert {"predicted", "predicted_baseline_mean", "predicted_baseline_ridge", "predicted_baseline_permuted"} <= set(
        table.obsm
    )
    for key in ("predicted", "predicted_baseline_ridge", "predicted_baseline_permuted", "predicted_baseline_untrained"):
        pd.testing.assert_frame_equal(prediction_frame(table, key), prediction_frame(adata, key))
    np.testing.assert_array_equal(table.obs["predicted_fold"], adata.obs["predicted_fold"])
    assert not table.obs["predicted_leaky"].any()
    for one, other in zip(expected, found, strict=True):
        assert one.training.patch == other.training.patch == [40.0, 8]
        assert one.training.patients == other.training.patients
        assert one.training.padded_patches == other.training.padded_patches
    stp.tl.predict(sdata)  # and the models of the folds find the images, too
    assert np.isfinite(table.obsm["predicted"]).all()


def test_cross_validate(adata: Any, sdata: Any) -> None:
    models = {"pixels": {"model": "color", **COLOR}, "ridge": "ridge"}
    expected = stp.tl.cross_validate(adata, models, **QUICK)
    found = stp.tl.cross_validate(sdata, models, **QUICK)
    pd.testing.assert_frame_equal(found, expected)
    table = sdata.tables["table"]
    for label in models:
        pd.testing.assert_frame_equal(
            prediction_frame(table, f"predicted_{label}"), prediction_frame(adata, f"predicted_{label}")
        )
    assert found[found["model"] == "pixels"]["pearson"].notna().all()


def test_another_name_of_the_table(adata: Any) -> None:
    sdata = stp.io.to_spatialdata(adata, table_key="spots")
    for entry in sdata.tables["spots"].uns["spatial"].values():
        for name in ("images", "metadata"):
            entry.pop(name, None)
    stp.tl.fit_folds(sdata, "color", 3, baselines=False, table_key="spots", **COLOR)
    stp.tl.cross_validate(sdata, {"c": {"model": "color", **COLOR}}, baselines=False, table_key="spots", **QUICK)
    table = sdata.tables["spots"]
    assert prediction_frame(table, "predicted").notna().all(axis=None)
    assert prediction_frame(table, "predicted_c").notna().all(axis=None)


def test_images_that_no_object_records(adata: Any) -> None:
    """`image=` of both calls, as of fit and predict."""
    images = {name: entry["images"]["hires"] for name, entry in adata.uns["spatial"].items()}
    expected = adata.copy()
    for entry in adata.uns["spatial"].values():
        del entry["images"]
    stp.tl.fit_folds(expected, "color", 3, baselines=False, **COLOR)
    stp.tl.fit_folds(adata, "color", 3, baselines=False, image=images, **COLOR)
    pd.testing.assert_frame_equal(prediction_frame(adata, "predicted"), prediction_frame(expected, "predicted"))
    stp.tl.cross_validate(adata, {"c": {"model": "color", **COLOR}}, image=images, baselines=False, **QUICK)
    assert prediction_frame(adata, "predicted_c").notna().all(axis=None)
