import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stpredict import get


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.random((6, 4)).astype(np.float32), var=pd.DataFrame(index=list("ABCD")))
    adata.obs["sample"] = "s1"
    adata.obsm["spatial"] = rng.random((6, 2))
    adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"microns_per_pixel": 0.5}, "metadata": {}}}
    adata.obsm["predicted"] = pd.DataFrame(rng.random((6, 3), np.float32), adata.obs_names, ["C", "A", "Z"])
    return adata


def test_prediction_as_an_object(adata):
    found = get.predicted(adata)
    assert found.var_names.tolist() == ["C", "A", "Z"]
    assert found.X.dtype == np.float32
    np.testing.assert_array_equal(found.X, adata.obsm["predicted"])
    np.testing.assert_array_equal(found.layers["measured"][:, :2], adata[:, ["C", "A"]].X)
    assert np.isnan(found.layers["measured"][:, 2]).all()
    assert found.var["measured"].tolist() == [True, True, False]
    pd.testing.assert_frame_equal(found.obs, adata.obs)
    np.testing.assert_array_equal(found.obsm["spatial"], adata.obsm["spatial"])
    assert found.uns["spatial"]["s1"]["scalefactors"]["microns_per_pixel"] == 0.5


def test_result_does_not_share_values(adata):
    before = adata.copy()
    found = get.predicted(adata)
    found.X[:] = 0
    found.obsm["spatial"][:] = 0
    found.obs["sample"] = "other"
    pd.testing.assert_frame_equal(adata.obsm["predicted"], before.obsm["predicted"])
    np.testing.assert_array_equal(adata.obsm["spatial"], before.obsm["spatial"])
    assert (adata.obs["sample"] == "s1").all()


def test_sparse_layer_and_bounds(adata):
    dense = get.predicted(adata)
    adata.layers["target"] = sparse.csr_matrix(adata.X)
    adata.X = None
    assert "measured" not in get.predicted(adata).layers
    found = get.predicted(adata, layer="target")
    np.testing.assert_array_equal(found.layers["measured"], dense.layers["measured"])
    adata.obsm["predicted_upper"] = adata.obsm["predicted"] + 1
    adata.obsm["predicted_std"] = adata.obsm["predicted"][["C", "A"]]
    found = get.predicted(adata)
    np.testing.assert_array_equal(found.layers["upper"], found.X + 1)
    assert "std" not in found.layers


def test_nothing_measured(adata):
    adata.obsm["predicted"].columns = ["X", "Y", "Z"]
    found = get.predicted(adata)
    assert "measured" not in found.layers
    assert not found.var["measured"].any()


def test_no_positions(adata):
    bare = ad.AnnData(adata.X, var=adata.var)
    bare.obsm["other"] = adata.obsm["predicted"]
    assert "spatial" not in get.predicted(bare, "other").obsm


def test_errors(adata):
    with pytest.raises(KeyError, match=r"stp\.tl\.predict"):
        get.predicted(adata, "other")
    with pytest.raises(KeyError, match="layers"):
        get.predicted(adata, layer="target")
    with pytest.raises(TypeError, match="DataFrame"):
        get.predicted(adata, "spatial")
    with pytest.raises(TypeError, match="AnnData or SpatialData"):
        get.predicted(pd.DataFrame())
    adata.obsm["predicted"].columns = ["A", "A", "Z"]
    with pytest.raises(ValueError, match="unique genes"):
        get.predicted(adata)
