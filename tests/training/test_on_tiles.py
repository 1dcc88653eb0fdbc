"""A fitted model as `lazyslide.tl.feature_prediction` takes one: from features of tiles to named values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stpredict as stp
from stpredict.training._on_tiles import lattice_cells


@pytest.fixture(scope="module")
def tiles() -> Any:
    """Three sections of 6 × 6 tiles of 100 µm, three of which are missing, with 5 features and 4 genes."""
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng(0)
    row, col = np.delete(np.mgrid[:6, :6].reshape(2, -1), [0, 8, 30], axis=1)
    row, col, n = np.tile(row, 3), np.tile(col, 3), 3 * len(row)
    features = rng.normal(size=(n, 5)).astype(np.float32)
    values = (features @ rng.normal(size=(5, 4)) + 0.1 * rng.normal(size=(n, 4))).astype(np.float32)
    section = np.repeat(["s", "u", "v"], n // 3)
    obs = pd.DataFrame(
        {"sample": section, "patient": section, "array_row": row, "array_col": col}, index=[f"t{i}" for i in range(n)]
    )
    table = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=list("ABCD")))
    table.obsm["X_toy"] = features
    table.obsm["spatial"] = np.column_stack([col, row]) * 200.0 + 100 + [1000, 400]
    table.uns["spatial"] = {name: {"scalefactors": {"microns_per_pixel": 0.5}} for name in "suv"}
    mpp = dict.fromkeys("suv", 0.5)
    table.uns["stpredict"] = {"X_toy": {"encoder": "toy", "tile_um": 100.0, "dim": 5, "microns_per_pixel": mpp}}
    table.uns["log1p"] = {}
    stp.pp.grid(table, lattice="square")
    return table


def corners(table: Any) -> np.ndarray:
    return table.obsm["spatial"] - 100


@pytest.mark.parametrize("scaling", ["global", "section"])
@pytest.mark.parametrize(
    ("name", "coords", "whole"), [("ridge", False, False), ("egn", True, True), ("hist", True, True)]
)
def test_tiles_get_what_predict_writes(tiles: Any, name: str, coords: bool, whole: bool, scaling: str) -> None:
    model = stp.tl.fit(
        tiles, name, tiles.obs["sample"] != "s", hyperparameters="small", training={"max_epochs": 1, "patience": 0},
        baselines=False, features={"slot": "X_toy", "scaling": scaling},
    )  # fmt: skip
    assert model.needs_coords is coords
    assert model.whole_slide is (whole or scaling == "section")
    assert model.features_model_name == "toy"
    table = tiles[tiles.obs["sample"] == "s"].copy()
    stp.tl.predict(table, model)
    found = model.at(0.5).predict(table.obsm["X_toy"], corners(table) if coords else None)
    assert list(found) == list("ABCD")
    np.testing.assert_allclose(np.column_stack(list(found.values())), table.obsm["predicted"], atol=1e-6)


def test_what_cannot_be_predicted_is_refused(tiles: Any) -> None:
    options = {"hyperparameters": "small", "training": {"max_epochs": 1, "patience": 0}, "baselines": False}
    ridge, egn = (stp.tl.fit(tiles, name, **options) for name in ("ridge", "egn"))
    features = tiles.obsm["X_toy"]
    with pytest.raises(ValueError, match=r"expected 5 features of X_toy; found 4"):
        ridge.predict(features[:, :4])
    with pytest.raises(TypeError, match=r"stp\.tl\.predict\(data, model\)"):
        ridge.predict(tiles)
    with pytest.raises(ValueError, match="finite"):
        ridge.predict(np.where(features > 2, np.nan, features))
    with pytest.raises(ValueError, match=r"model\.at\(microns_per_pixel\)"):
        egn.predict(features, corners(tiles))
    with pytest.raises(ValueError, match="found none; pass `coords=`"):
        egn.at(0.5).predict(features)
    with pytest.raises(ValueError, match="microns_per_pixel"):
        egn.at(0)
    assert egn._microns_per_pixel is None


def test_cells_of_rounded_corners_and_of_no_lattice() -> None:
    col, row = np.mgrid[:40, :3].reshape(2, -1)
    corner = np.round(np.column_stack([col, row]) * 255.7 + 17)
    np.testing.assert_array_equal(lattice_cells(corner), np.column_stack([row, col]))
    assert lattice_cells(corner[:1]).tolist() == [[0, 0]]
    corner[5] += [0, 100]
    with pytest.raises(ValueError, match="square lattice"):
        lattice_cells(corner)
    with pytest.raises(ValueError, match="one at each place"):
        lattice_cells(corner[[0, 1, 1]])
