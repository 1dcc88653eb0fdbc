from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import stpredict as stp


@pytest.fixture
def sdata():
    """Cells (squares, in pixels) of two sections, with integer names in another order than the table."""
    import geopandas as gpd
    from shapely import box
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    centers = {"A": np.array([[10.0, 20.0], [30.0, 40.0]]), "B": np.array([[5.0, 6.0], [7.0, 8.0]])}
    shapes = {}
    for name, xy in centers.items():
        geometry = box(xy[:, 0] - 1, xy[:, 1] - 2, xy[:, 0] + 1, xy[:, 1] + 2)
        frame = gpd.GeoDataFrame(geometry=geometry, index=[11, 12])
        shapes[f"{name}_spots"] = ShapesModel.parse(
            frame, transformations={"global": Identity(), "um": Scale([0.5, 0.5], ("x", "y"))}
        )
    table = AnnData(np.eye(4, dtype=np.float32), obs=pd.DataFrame(index=list("wxyz")))
    table.obs["region"] = pd.Categorical(["B_spots", "A_spots", "B_spots", "A_spots"])
    table.obs["cell"] = [12, 12, 11, 11]
    table = TableModel.parse(table, region=["A_spots", "B_spots"], region_key="region", instance_key="cell")
    image = Image2DModel.parse(
        np.arange(48, dtype=np.uint8).reshape(3, 4, 4),
        dims=("c", "y", "x"),
        transformations={"global": Scale([10.0, 10.0], ("x", "y"))},
    )
    return SpatialData(images={"A_hires_image": image}, shapes=shapes, tables={"table": table})


def test_centroids_in_the_order_of_the_table(sdata):
    adata = stp.io.from_spatialdata(sdata)
    np.testing.assert_allclose(adata.obsm["spatial"], [[7, 8], [30, 40], [5, 6], [10, 20]])
    assert list(adata.obs_names) == list("wxyz")
    assert list(adata.obs["sample"]) == ["B", "A", "B", "A"]
    assert "patient" not in adata.obs
    assert "spatial" not in sdata.tables["table"].obsm
    assert "sample" not in sdata.tables["table"].obs


def test_patient_and_pixel_size(sdata):
    adata = stp.io.from_spatialdata(sdata, patient={"A": "P1", "B": "P2"}, microns_per_pixel={"A": 0.5})
    assert list(adata.obs["patient"]) == ["P2", "P1", "P2", "P1"]
    assert adata.uns["spatial"]["A"]["scalefactors"]["microns_per_pixel"] == 0.5
    assert adata.uns["spatial"]["B"]["scalefactors"] == {}
    assert set(stp.io.from_spatialdata(sdata, patient="P").obs["patient"]) == {"P"}


def test_thumbnail_of_a_downscaled_image(sdata):
    entry = stp.io.from_spatialdata(sdata).uns["spatial"]["A"]
    assert entry["images"]["hires"].shape == (4, 4, 3)
    assert entry["images"]["hires"][1, 2, 0] == 6
    assert entry["scalefactors"]["tissue_hires_scalef"] == pytest.approx(0.1)


def test_coordinate_system(sdata):
    adata = stp.io.from_spatialdata(sdata, coordinate_system="um")
    np.testing.assert_allclose(adata.obsm["spatial"][1], [15, 20])


def test_existing_columns_stay(sdata):
    sdata.tables["table"].obs["sample"] = ["s"] * 4
    sdata.tables["table"].obs["patient"] = ["p"] * 4
    adata = stp.io.from_spatialdata(sdata)
    assert set(adata.obs["sample"]) == {"s"}
    assert list(adata.uns["spatial"]) == ["s"]
    with pytest.raises(ValueError, match="found both"):
        stp.io.from_spatialdata(sdata, patient="q")


def test_errors(sdata):
    with pytest.raises(TypeError, match="AnnData"):
        stp.io.from_spatialdata(sdata.tables["table"])
    with pytest.raises(KeyError, match="table 'cells'"):
        stp.io.from_spatialdata(sdata, "cells")
    with pytest.raises(KeyError, match="missing B"):
        stp.io.from_spatialdata(sdata, patient={"A": "P1"})
    sdata.tables["table"].obs["cell"] = [12, 99, 11, 11]
    with pytest.raises(ValueError, match="found none for 99"):
        stp.io.from_spatialdata(sdata)
    del sdata.shapes["B_spots"]
    with pytest.raises(KeyError, match="shapes 'B_spots'"):
        stp.io.from_spatialdata(sdata)
    del sdata.tables["table"].uns["spatialdata_attrs"]
    with pytest.raises(ValueError, match="annotates shapes or labels"):
        stp.io.from_spatialdata(sdata)
