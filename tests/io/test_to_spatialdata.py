from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import stpredict as stp
from stpredict.io._image import element_scale, section_image


def pixels(seed: int) -> np.ndarray:
    image = np.random.default_rng(seed).integers(200, 256, (160, 220, 3), dtype=np.uint8)
    image[20:125, 30:155] = 90
    return image


@pytest.fixture
def adata(tmp_path):
    """S1 with an image file, S2 with an array as image, S3 without an image."""
    row, col = np.mgrid[:5, :6].reshape(2, -1)
    rng = np.random.default_rng(0)
    sections = []
    for i, name in enumerate(["S1", "S2", "S3"]):
        index = [f"{name}_{j}" for j in range(30)]
        counts = pd.DataFrame(rng.poisson(1, (30, 4)), index=index, columns=list("ABCD"))
        positions = pd.DataFrame({"x": 40.0 + 20 * col + i, "y": 30.0 + 20 * row}, index=index)
        image = {"S1": tmp_path / "S1.png", "S2": pixels(2), "S3": None}[name]
        if name == "S1":
            Image.fromarray(pixels(1)).save(image)
        sections.append(
            stp.io.from_tables(
                counts,
                positions,
                image,
                sample=name,
                patient=f"P{i}",
                microns_per_pixel=0.5,
                spot_diameter_um=5.0,
                thumbnail_px=110,
            )
        )
    adata = anndata.concat(sections, join="outer")
    adata.uns["spatial"] = {name: entry for part in sections for name, entry in part.uns["spatial"].items()}
    return adata[np.random.default_rng(3).permutation(90)].copy()


def test_elements_and_their_positions(adata):
    from spatialdata import get_extent

    before = adata.copy()
    sdata = stp.io.to_spatialdata(adata)
    assert sorted(sdata.shapes) == ["S1_spots", "S2_spots", "S3_spots"]
    assert sorted(sdata.images) == ["S1_image", "S2_image"]
    assert sorted(sdata.coordinate_systems) == ["S1", "S2", "S3"]
    mine = adata[adata.obs["sample"] == "S2"]
    circles = sdata.shapes["S2_spots"].loc[mine.obs_names]
    np.testing.assert_array_equal(np.column_stack([circles.geometry.x, circles.geometry.y]), mine.obsm["spatial"])
    assert (circles["radius"] == 5.0).all()
    extent = get_extent(sdata.images["S1_image"], coordinate_system="S1")
    assert extent["x"] == pytest.approx((0, 220))
    assert extent["y"] == pytest.approx((0, 160))
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert "spatialdata_attrs" not in adata.uns


def test_table_joins_the_circles(adata):
    from spatialdata import match_table_to_element

    sdata = stp.io.to_spatialdata(adata, table_key="spots")
    table = match_table_to_element(sdata, "S3_spots", "spots")
    assert list(table.obs_names) == list(sdata.shapes["S3_spots"].index)
    assert set(table.obs["sample"]) == {"S3"}


def test_zarr_round_trip(adata, tmp_path):
    from spatialdata import SpatialData

    sdata = stp.io.to_spatialdata(adata)
    sdata.write(tmp_path / "a.zarr")
    back = SpatialData.read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(back.images["S1_image"].values, sdata.images["S1_image"].values)
    assert element_scale(back.images["S1_image"], "S1") == pytest.approx(2.0)
    again = stp.io.from_spatialdata(back)
    assert list(again.obs_names) == list(adata.obs_names)
    np.testing.assert_array_equal(again.obsm["spatial"], adata.obsm["spatial"])
    assert (again.layers["counts"] != adata.layers["counts"]).nnz == 0
    pd.testing.assert_frame_equal(again.obs[adata.obs.columns], adata.obs, check_categorical=False)
    assert again.uns["spatial"]["S1"]["metadata"] == adata.uns["spatial"]["S1"]["metadata"]
    assert again.uns["spatial"]["S3"]["scalefactors"] == adata.uns["spatial"]["S3"]["scalefactors"]


@pytest.mark.parametrize("scale_factors", [None, [2]])
def test_full_resolution_is_lazy_and_exact(adata, tmp_path, scale_factors):
    import dask.array as da
    from spatialdata import SpatialData

    adata = adata[adata.obs["sample"] != "S2"].copy()
    sdata = stp.io.to_spatialdata(adata, full_resolution=True, scale_factors=scale_factors)
    element = sdata.images["S1_image"]
    largest = element if scale_factors is None else element["scale0"]["image"]
    assert isinstance(largest.data, da.Array)
    assert element_scale(element, "S1") == 1.0
    sdata.write(tmp_path / "a.zarr")
    back = SpatialData.read(tmp_path / "a.zarr")
    (tmp_path / "S1.png").unlink()
    found = section_image(back, back.tables["table"], "S1")
    np.testing.assert_array_equal(found.band(0, 160), pixels(1))


def test_full_resolution_that_is_not_there(adata):
    with pytest.raises(KeyError, match="section 'S2'"):
        stp.io.to_spatialdata(adata, full_resolution=True)


def test_a_thumbnail_is_not_taken_for_the_full_image(adata):
    sdata = stp.io.to_spatialdata(adata)
    with pytest.raises(KeyError, match="pass `image=`"):
        section_image(sdata, sdata.tables["table"], "S2")
    assert section_image(sdata, sdata.tables["table"], "S1").width == 220


def test_without_images(adata):
    assert not list(stp.io.to_spatialdata(adata, images=False).images)


def test_radius(adata):
    del adata.uns["spatial"]["S2"]["scalefactors"]["spot_diameter_fullres"]
    with pytest.raises(ValueError, match=r"section 'S2'.*pass `radius_px=`"):
        stp.io.to_spatialdata(adata)
    sdata = stp.io.to_spatialdata(adata, radius_px={"S2": 7.0})
    assert (sdata.shapes["S2_spots"]["radius"] == 7.0).all()
    assert (sdata.shapes["S1_spots"]["radius"] == 5.0).all()


def test_errors(adata):
    with pytest.raises(KeyError, match="obs\\['slide'\\]"):
        stp.io.to_spatialdata(adata, sample_key="slide")
    twice = adata[[0, 0, 1]].copy()
    with pytest.raises(ValueError, match="unique names of observations"):
        stp.io.to_spatialdata(twice)
    named = adata.copy()
    named.obs["sample"] = named.obs["sample"].cat.rename_categories({"S2": "S 2/b"})
    with pytest.raises(ValueError, match="found 'S 2/b'"):
        stp.io.to_spatialdata(named)
    gaps = adata.copy()
    gaps.obs["sample"] = gaps.obs["sample"].astype(object).where(np.arange(90) > 0, None)
    with pytest.raises(ValueError, match="gaps in obs"):
        stp.io.to_spatialdata(gaps)
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="obsm\\['spatial'\\]"):
        stp.io.to_spatialdata(adata)
