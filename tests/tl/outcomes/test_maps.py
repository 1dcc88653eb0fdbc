"""Maps of slides as arrays: cells, tissue, means, and what is known of how they were made."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stpredict.tl.outcomes._maps import dense_maps


@pytest.fixture
def cells() -> ad.AnnData:
    """Two slides, 2 × 2 and 1 × 3 cells; one cell of the first is off the tissue."""
    obs = pd.DataFrame(
        {
            "sample": ["a"] * 4 + ["b"] * 3,
            "grid_row": [0, 0, 1, 1, 0, 0, 0],
            "grid_col": [0, 1, 0, 1, 0, 1, 2],
            "in_tissue": [1, 1, 1, 0, 1, 1, 1],
            "predicted_leaky": [False] * 4 + [True] + [False] * 2,
        },
        index=[f"c{i}" for i in range(7)],
    )
    frame = pd.DataFrame({"g": [1.0, 2, 6, 99, 10, 20, 30]}, index=obs.index)
    adata = ad.AnnData(obs=obs, obsm={"predicted": frame, "X_toy": np.arange(14.0).reshape(7, 2)})
    adata.uns["stpredict"] = {"grid": {"lattice": {"a": "hex", "b": "hex"}}, "predicted": {"model": "hist"}}
    return adata


@pytest.mark.parametrize("apart", [False, True])
def test_cells_tissue_and_means(cells, apart) -> None:
    maps = {name: cells[cells.obs["sample"] == name].copy() for name in "ab"} if apart else cells
    found = dense_maps(maps, ["b", "a"], ["predicted", "mask"], "X_toy")
    assert found.shape == (2, 3)
    np.testing.assert_array_equal(found.values[:, :, 0], [[10, 20, 30, 0, 0, 0], [1, 2, 0, 6, 0, 0]])
    np.testing.assert_array_equal(found.tissue, [[1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]])
    np.testing.assert_allclose(found.mean, [[20], [3]])
    np.testing.assert_allclose(found.features, [[10, 11], [2, 3]])
    np.testing.assert_array_equal(found.leaky, [True, False])
    assert found.mask
    assert found.lattice == "hex"
    assert found.kind.names == ["predicted:g"]
    assert found.kind.made == {"grid": [{"lattice": "hex"}], "predicted": [{"model": "hist"}]}


def test_lattices(cells) -> None:
    cells.uns["stpredict"]["grid"]["lattice"]["b"] = "square"
    assert dense_maps(cells, ["a"], "predicted", None).lattice == "hex"
    both = dense_maps(cells, ["a", "b"], "predicted", None)
    assert both.lattice == "square"
    assert not both.mask
    assert both.kind.made["grid"] == [{"lattice": "hex"}, {"lattice": "square"}]
    del cells.uns["stpredict"]
    assert dense_maps(cells, ["a", "b"], "predicted", None).lattice == "square"


def test_arrays_with_and_without_tissue() -> None:
    array = np.array([[[1.0, np.nan, 0]], [[0.0, np.nan, 0]]])
    found = dense_maps({"a": array}, ["a"], "predicted", None)
    np.testing.assert_array_equal(found.tissue, [[1]])
    np.testing.assert_array_equal(found.values, [[[1, 0]]])  # empty columns at the end are left out
    array[1, 0, 1] = 5
    with pytest.raises(ValueError, match="expected finite values on the map of 'a'"):
        dense_maps({"a": array}, ["a"], "predicted", None)
