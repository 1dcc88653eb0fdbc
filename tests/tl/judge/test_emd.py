import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stpredict.metrics import emd as distance
from stpredict.metrics import emd_uniform
from stpredict.tl.judge._emd import emd


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.poisson(2.0, (50, 4)).astype(np.float32), var=pd.DataFrame(index=list("ABCD")))
    adata.obs["sample"] = np.repeat(["s1", "s2"], [30, 20])
    adata.obsm["spatial"] = rng.random((50, 2)) * 1000
    adata.obsm["predicted"] = pd.DataFrame(rng.random((50, 3)), adata.obs_names, ["D", "A", "B"])
    return adata


def test_table_holds_each_gene_of_each_section(adata):
    table = emd(adata, method="auto", max_exact=20)
    assert list(table.columns) == ["gene", "sample", "emd", "emd_uniform", "method"]
    assert table["gene"].tolist() == ["D", "A", "B"] * 2
    assert table["sample"].tolist() == ["s1"] * 3 + ["s2"] * 3
    assert table["method"].tolist() == ["sliced"] * 3 + ["exact"] * 3
    rows = slice(30, 50)
    truth, xy = adata[rows, ["D", "A", "B"]].X, adata.obsm["spatial"][rows]
    predicted = adata.obsm["predicted"].iloc[rows].to_numpy()
    np.testing.assert_allclose(table["emd"][3:], distance(truth, predicted, xy, method="exact"))
    np.testing.assert_allclose(table["emd_uniform"][3:], emd_uniform(truth, xy, method="exact"))


def test_genes_layer_and_sparse(adata):
    chosen = emd(adata, genes=["B", "A"])
    everything = emd(adata).set_index(["gene", "sample"])
    assert chosen["gene"].tolist() == ["B", "A"] * 2
    np.testing.assert_allclose(
        chosen["emd"], everything.loc[list(zip(chosen["gene"], chosen["sample"], strict=True)), "emd"]
    )
    adata.layers["target"] = adata.X.copy()
    adata.X = np.zeros_like(adata.X)
    pd.testing.assert_frame_equal(emd(adata, genes=["B", "A"], layer="target"), chosen)
    adata.X = sparse.csr_matrix(adata.layers["target"])
    pd.testing.assert_frame_equal(emd(adata, genes=["B", "A"]), chosen)


def test_only_tissue_carries_mass(adata):
    adata.obs["in_tissue"] = np.tile([1, 0], 25)
    adata.obsm["predicted"].iloc[1::2] = np.nan
    inside = adata[::2].copy()
    del inside.obs["in_tissue"]
    pd.testing.assert_frame_equal(emd(adata), emd(inside))


def test_object_stays_as_it_is(adata):
    before = adata.copy()
    emd(adata)
    assert set(adata.uns) == set(before.uns)
    assert set(adata.obsm) == set(before.obsm)
    np.testing.assert_array_equal(adata.X, before.X)


def test_errors(adata):
    with pytest.raises(KeyError, match=r"stp\.tl\.predict"):
        emd(adata, "other")
    with pytest.raises(KeyError, match="genes of the panel"):
        emd(adata, genes=["A", "Z"])
    with pytest.raises(KeyError, match="section"):
        emd(adata, sample_key="slide")
    with pytest.raises(KeyError, match="spatial_key"):
        emd(adata, spatial_key="xy")
    with pytest.raises(KeyError, match="var_names"):
        emd(adata[:, ["A", "B"]].copy())
    with pytest.raises(TypeError, match="AnnData or SpatialData"):
        emd(adata.X)
    adata.obsm["predicted"].iloc[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite predictions"):
        emd(adata)
    adata.obsm["predicted"] = adata.obsm["predicted"].to_numpy()
    with pytest.raises(ValueError, match="DataFrame"):
        emd(adata)
