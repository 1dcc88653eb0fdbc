"""Tables that annotate the labels of a mask: positions are the centers of the labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import stpredict as stp
from stpredict.io import _centroids

CENTERS = np.array([[12.5, 9.5], [40.5, 20.5], [25.5, 50.5]])


def mask(dtype=np.int32, numbers=(1, 2, 3)):
    """Squares of 7 px around the centers."""
    found = np.zeros((64, 60), dtype=dtype)
    for number, (x, y) in zip(numbers, CENTERS.astype(int), strict=True):
        found[y - 3 : y + 4, x - 3 : x + 4] = number
    return found


@pytest.fixture
def make():
    from spatialdata import SpatialData
    from spatialdata.models import Labels2DModel, TableModel

    def make(labels=None, instances=(3, 1, 2), regions="cells", masks=("cells",), **options):
        regions = [regions] * len(instances) if isinstance(regions, str) else regions
        obs = pd.DataFrame({"region": pd.Categorical(regions), "cell_id": np.asarray(instances)})
        obs.index = [f"row{i}" for i in range(len(obs))]
        table = AnnData(np.ones((len(obs), 2), np.float32), obs=obs)
        table = TableModel.parse(
            table, region=list(dict.fromkeys(regions)), region_key="region", instance_key="cell_id"
        )
        labels = mask() if labels is None else labels
        elements = {name: Labels2DModel.parse(labels, dims=("y", "x"), **options) for name in masks}
        return SpatialData(labels=elements, tables={"table": table})

    return make


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64])
def test_centers_in_the_order_of_the_table(make, dtype) -> None:
    adata = stp.io.from_spatialdata(make(mask(dtype)), microns_per_pixel=0.5, patient="P")
    np.testing.assert_allclose(adata.obsm["spatial"], CENTERS[[2, 0, 1]])
    entry = adata.uns["spatial"]["cells"]["scalefactors"]
    assert entry["spot_diameter_fullres"] == pytest.approx(2 * np.sqrt(49 / np.pi))
    assert adata.obs["sample"].tolist() == ["cells"] * 3


def test_the_same_as_spatialdata(make) -> None:
    from spatialdata import get_centroids

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (64, 60)).astype(np.int32)
    theirs = get_centroids(make(labels)["cells"]).compute()
    np.testing.assert_allclose(stp.io.from_spatialdata(make(labels)).obsm["spatial"], theirs.loc[[3, 1, 2], ["x", "y"]])


@pytest.mark.parametrize("numbers", [(1, 2, 3), (7, 500, 2**31 - 5), (2**40, 2**41, 3)])
@pytest.mark.parametrize("band", [_centroids._BAND_PX, 500, 60])
def test_large_numbers_and_bands(make, numbers, band, monkeypatch) -> None:
    monkeypatch.setattr(_centroids, "_BAND_PX", band)
    sdata = make(mask(np.int64, numbers), instances=numbers)
    np.testing.assert_allclose(stp.io.from_spatialdata(sdata).obsm["spatial"], CENTERS)


@pytest.mark.parametrize("instances", [[1.0, 2.0, 3.0], ["1", "2", "3"], np.array([1, 2, 3], np.uint16)])
def test_numbers_of_cells_of_any_type(make, instances) -> None:
    sdata = make(instances=[1, 2, 3])
    sdata.tables["table"].obs["cell_id"] = instances
    np.testing.assert_allclose(stp.io.from_spatialdata(sdata).obsm["spatial"], CENTERS)


def test_coordinate_systems(make) -> None:
    from spatialdata.transformations import Affine, Identity, Scale

    turned = Affine([[0, 2, 5], [-2, 0, 7], [0, 0, 1]], ("x", "y"), ("x", "y"))
    sdata = make(transformations={"global": Identity(), "um": Scale([0.2, 0.2], ("x", "y")), "turned": turned})
    found = {name: stp.io.from_spatialdata(sdata, coordinate_system=name) for name in ("global", "um", "turned")}
    order = CENTERS[[2, 0, 1]]
    np.testing.assert_allclose(found["global"].obsm["spatial"], order)
    np.testing.assert_allclose(found["um"].obsm["spatial"], order * 0.2)
    np.testing.assert_allclose(
        found["turned"].obsm["spatial"], np.column_stack([2 * order[:, 1] + 5, 7 - 2 * order[:, 0]])
    )
    sizes = [adata.uns["spatial"]["cells"]["scalefactors"]["spot_diameter_fullres"] for adata in found.values()]
    np.testing.assert_allclose(np.array(sizes) / sizes[0], [1, 0.2, 2])
    with pytest.raises(ValueError, match="coordinate system 'mm'; found global, um, turned"):
        stp.io.from_spatialdata(sdata, coordinate_system="mm")


def test_pyramids_and_lazy_masks(make) -> None:
    import dask.array as da

    for labels, options in ((mask(), {"scale_factors": [2, 2]}), (da.from_array(mask(), chunks=(17, 23)), {})):
        np.testing.assert_allclose(stp.io.from_spatialdata(make(labels, **options)).obsm["spatial"], CENTERS[[2, 0, 1]])


def test_labels_and_shapes_in_one_table(make) -> None:
    from spatialdata.models import ShapesModel

    sdata = make(instances=[2, 5, 3], regions=["cells", "B_spots", "cells"])
    sdata["B_spots"] = ShapesModel.parse(np.array([[1.0, 2.0]]), geometry=0, radius=4, index=[5])
    adata = stp.io.from_spatialdata(sdata)
    np.testing.assert_allclose(adata.obsm["spatial"], [CENTERS[1], [1, 2], CENTERS[2]])
    assert adata.obs["sample"].tolist() == ["cells", "B", "cells"]


def test_errors_say_what_is_there(make) -> None:
    with pytest.raises(ValueError, match="label in 'cells' for every row of the table; found none for 9"):
        stp.io.from_spatialdata(make(instances=[1, 9, 2]))
    with pytest.raises(ValueError, match="found none for 0"):
        stp.io.from_spatialdata(make(instances=[0, 1, 2]))
    sdata = make(masks=("cells", "nuclei"))
    del sdata.labels["cells"]
    with pytest.raises(KeyError, match=r"shapes 'cells' or labels.*\['nuclei'\]"):
        stp.io.from_spatialdata(sdata)
    sdata = make()
    del sdata.tables["table"].uns["spatialdata_attrs"]["instance_key"]
    with pytest.raises(ValueError, match="annotates shapes or labels"):
        stp.io.from_spatialdata(sdata)
