from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import stpredict as stp


def lattice(kind: str) -> ad.AnnData:
    """Two sections of 5 × 6 spots on one lattice, without one spot, three genes."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:5, :6].reshape(2, -1)
    if kind == "hexagonal":
        col = 2 * col + row % 2
    obs = pd.DataFrame({"array_row": np.tile(row, 2), "array_col": np.tile(col, 2)}, index=[f"o{i}" for i in range(60)])
    obs["sample"] = obs["patient"] = np.repeat(["a", "b"], 30)
    counts = rng.poisson(20, (60, 3)).astype(np.float32)
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=["A", "B", "C"]))[np.arange(60) != 7].copy()
    stp.pp.normalize(adata)
    return adata


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", ["square", "hexagonal"])
def test_mean_over_those_beside(kind: str, sparse: bool) -> None:
    adata = lattice(kind)
    x = np.asarray(adata.X)
    if sparse:
        adata.X = csr_matrix(adata.X)
    stp.pp.published_target(adata, ["smoothed"])
    at = adata.obs[["array_row", "array_col"]].to_numpy()
    gap = np.abs(at[:, None] - at[None])
    near = (gap <= 1).all(axis=2) if kind == "square" else gap.sum(axis=2) <= 2
    near &= (gap[..., 0] <= 1) & (adata.obs["sample"].to_numpy()[:, None] == adata.obs["sample"].to_numpy()[None])
    assert near.sum(axis=1).max() == (9 if kind == "square" else 7)
    wanted = np.stack([x[row].mean(axis=0) for row in near])
    np.testing.assert_allclose(adata.layers["published"], wanted, rtol=1e-5)


def test_library_size_of_the_panel() -> None:
    adata = lattice("square")
    stp.pp.published_target(adata, ["panel"], panel=["A", "C"], key_added="mine")
    counts = np.asarray(adata.layers["counts"], dtype=float)
    np.testing.assert_allclose(
        adata.layers["mine"], np.log1p(1e4 * counts / counts[:, [0, 2]].sum(1)[:, None]), rtol=1e-5
    )
    assert list(adata.uns["stpredict"]["mine"]["habits"]) == ["panel"]


def test_unmeasured_spots_take_no_part() -> None:
    adata = lattice("square")
    adata.X[3] = np.nan
    stp.pp.published_target(adata, ["smoothed"])
    assert np.isnan(adata.layers["published"][3]).all()
    assert np.isfinite(np.delete(adata.layers["published"], 3, axis=0)).all()


def test_refusals_leave_the_object(frozen) -> None:
    adata = lattice("square")
    adata.obs.loc["o4", "array_col"] = np.nan
    before = frozen(adata)
    with pytest.raises(ValueError, match="habits to be one of 'panel', 'smoothed'"):
        stp.pp.published_target(adata, ["ranked"])
    with pytest.raises(ValueError, match="position on the array for every measured observation; found 1 without"):
        stp.pp.published_target(adata)
    with pytest.raises(KeyError, match="missing Z"):
        stp.pp.published_target(adata, panel=["Z"])
    assert frozen(adata) == before


@pytest.mark.parametrize("sparse", [False, True])
def test_counts_and_one_per_million(sparse: bool) -> None:
    """The inverse is the counts up to the total, and a spot without counts has the same value of every gene."""
    adata = lattice("square")
    adata.layers["counts"][4] = 0
    counts = np.asarray(adata.layers["counts"], dtype=np.float64)
    if sparse:
        adata.layers["counts"] = csr_matrix(adata.layers["counts"])
    stp.pp.published_target(adata, ["plus_one"])
    values = adata.layers["published"].astype(np.float64)
    np.testing.assert_allclose(np.exp(values).sum(axis=1), 1e6, rtol=1e-5)
    np.testing.assert_allclose(np.exp(values) * (counts.sum(axis=1, keepdims=True) + 3) / 1e6 - 1, counts, atol=1e-3)
    np.testing.assert_allclose(values[4], np.log(1e6 / 3), rtol=1e-6)
    with pytest.raises(ValueError, match="one library size"):
        stp.pp.published_target(adata, ["panel", "plus_one"])
