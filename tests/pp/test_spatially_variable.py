from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stpredict.metrics._morans_i import morans_i
from stpredict.pp._spatial_graph import spatial_weights
from stpredict.pp._spatially_variable import spatially_variable
from stpredict.slots._provenance import read_record


@pytest.fixture
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    xy = rng.random((90, 2)) * 1000
    values = rng.normal(size=(90, 5))
    values[:, 0] += xy[:, 0] / 200
    obs = pd.DataFrame({"sample": ["B"] * 50 + ["A"] * 40}, index=[f"s{i}" for i in range(90)])
    return ad.AnnData(values, obs=obs, obsm={"spatial": xy})


def test_each_section_alone(adata) -> None:
    assert spatially_variable(adata, n_neighbors=8) is None
    for section, rows in (("B", slice(0, 50)), ("A", slice(50, 90))):
        expected = morans_i(adata.X[rows], spatial_weights(adata.obsm["spatial"][rows], 8))
        np.testing.assert_allclose(adata.varm["moran_i"][section], expected["I"])
        np.testing.assert_allclose(adata.varm["moran_p"][section], expected["p"])
    assert list(adata.varm["moran_i"].columns) == ["B", "A"]
    assert (adata.varm["moran_p"].iloc[0] < 1e-6).all()
    assert read_record(adata, "spatially_variable")["sections"] == ["B", "A"]


def test_scale_of_the_positions_does_not_matter(adata) -> None:
    one = spatially_variable(adata, copy=True)
    adata.obsm["spatial"] = adata.obsm["spatial"] * 0.37
    two = spatially_variable(adata, copy=True)
    pd.testing.assert_frame_equal(one.varm["moran_i"], two.varm["moran_i"])
    assert "moran_i" not in adata.varm


def test_sparse_equals_dense(adata) -> None:
    thin = adata.copy()
    thin.X = sparse.csr_matrix(thin.X)
    spatially_variable(adata)
    spatially_variable(thin)
    np.testing.assert_allclose(thin.varm["moran_i"], adata.varm["moran_i"])


def test_genes_and_training_observations(adata) -> None:
    train = (adata.obs["sample"] == "A").to_numpy()
    spatially_variable(adata, genes=["3", "1"], train=train)
    table = adata.varm["moran_i"]
    assert list(table.columns) == ["A"]
    assert table.index.equals(adata.var_names)
    assert table["A"].notna().tolist() == [False, True, False, True, False]


def test_unmeasured_observations_are_left_out(adata) -> None:
    expected = spatially_variable(adata[10:].copy(), copy=True)
    adata.X[:10] = np.nan
    spatially_variable(adata)
    np.testing.assert_allclose(adata.varm["moran_i"], expected.varm["moran_i"])


def test_errors_leave_the_object(adata) -> None:
    with pytest.raises(KeyError, match="sample_key"):
        spatially_variable(adata, sample_key="other")
    with pytest.raises(KeyError, match="panel"):
        spatially_variable(adata, genes=["none"])
    few = np.ones(90, dtype=bool)
    few[3:50] = False
    with pytest.raises(ValueError, match="at least 4"):
        spatially_variable(adata, train=few)
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="spatial"):
        spatially_variable(adata)
    assert not adata.varm
    assert not adata.uns
