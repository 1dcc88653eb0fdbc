from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import AnnData

import stpredict as stp
from stpredict.encoders._measure_nuclei import DISTANCES, MEASURES

OPTIONS: dict[str, Any] = {"microns_per_pixel": 0.5, "progress": False}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return stp.datasets.synthetic_nuclei(200, seed=60)[0]


def table(image: np.ndarray, *names: str) -> AnnData:
    """Sections with a spot in the middle."""
    names = names or ("s",)
    obs = pd.DataFrame({"sample": list(names)}, index=[f"spot_{name}" for name in names])
    height, width = image.shape[:2]
    return AnnData(
        np.zeros((len(names), 1)), obs=obs, obsm={"spatial": np.tile([width / 2, height / 2], (len(names), 1))}
    )


def places(frame: Any) -> np.ndarray:
    return frame[["x", "y", "area_um2", "nearest_um"]].to_numpy(dtype=float)


@pytest.fixture(scope="module")
def found(image: np.ndarray) -> AnnData:
    adata = table(image)
    stp.pp.nuclei(adata, image=image, chunk_um=10_000, **OPTIONS)
    return adata


def test_columns_and_record(found):
    frame = stp.get.nuclei(found)
    assert len(frame) > 40
    assert frame.columns.tolist() == ["nucleus_id", "x", "y", *MEASURES, *DISTANCES, "geometry"]
    assert np.isfinite(frame.drop(columns="geometry").to_numpy(dtype=float)).all()
    assert frame.geometry.is_valid.all()
    inside = shapely.contains_xy(shapely.convex_hull(frame.geometry.to_numpy()), frame["x"], frame["y"])
    assert inside.all()
    np.testing.assert_allclose(frame.area * 0.25, frame["area_um2"], rtol=0.2)
    record = found.uns["stpredict"]["nuclei"]
    assert record["method"] == "watershed"
    assert record["n_nuclei"]["s"] == len(frame)


@pytest.mark.parametrize("chunk_um", [45.0, 111.0])
def test_nuclei_on_the_border_of_chunks_are_found_once_and_whole(image, found, chunk_um):
    adata = table(image)
    stp.pp.nuclei(adata, image=image, chunk_um=chunk_um, **OPTIONS)
    np.testing.assert_allclose(places(stp.get.nuclei(adata)), places(stp.get.nuclei(found)), rtol=1e-5)


@pytest.mark.parametrize("mpp", [0.25, 0.37, 1.0])
def test_sizes_are_in_micrometers_whatever_the_scan(mpp):
    from PIL import Image

    picture = stp.datasets.synthetic_nuclei(150, microns_per_pixel=0.25, seed=61)[0]
    size = [round(side * 0.25 / mpp) for side in picture.shape[1::-1]]
    scaled = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    counts, areas = [], []
    for pixels, scale in ((picture, 0.25), (scaled, mpp)):
        adata = table(pixels)
        stp.pp.nuclei(adata, image=pixels, microns_per_pixel=scale, progress=False)
        frame = stp.get.nuclei(adata)
        counts.append(len(frame))
        areas.append(frame["area_um2"].median())
    assert counts[1] == pytest.approx(counts[0], rel=0.1)
    assert areas[1] == pytest.approx(areas[0], rel=0.15)


@pytest.mark.parametrize("level", [None, 255])
def test_gray_and_white_sections_have_none(image, level):
    picture = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    picture = picture if level is None else np.full_like(image, level)
    adata = table(picture)
    stp.pp.nuclei(adata, image=picture, **OPTIONS)
    frame = stp.get.nuclei(adata)
    assert len(frame) == 0
    assert frame.columns.tolist()[-1] == "geometry"
    stp.pp.nuclei_features(adata)
    assert np.isfinite(adata.obsm["X_nuclei"]).all()


def test_only_the_surroundings_of_spots_are_looked_at(image):
    wide = np.concatenate([image, np.full((image.shape[0], 1600, 3), 255, np.uint8), image], axis=1)
    adata = table(wide)
    adata.obsm["spatial"][:] = 200
    stp.pp.nuclei(adata, image=wide, chunk_um=100, **OPTIONS)
    x = stp.get.nuclei(adata)["x"]
    assert 0 < x.max() < image.shape[1]


def test_copy_changes_nothing(image):
    adata = table(image)
    changed = stp.pp.nuclei(adata, image=image, copy=True, key_added="cells", **OPTIONS)
    assert "cells" not in adata.uns
    assert len(stp.get.nuclei(changed, key="cells")) > 0


def test_stores_keep_them(found, tmp_path):
    found.write_h5ad(tmp_path / "a.h5ad")
    found.write_zarr(tmp_path / "a.zarr")
    for again in (anndata.read_h5ad(tmp_path / "a.h5ad"), anndata.read_zarr(tmp_path / "a.zarr")):
        frame = stp.get.nuclei(again)
        np.testing.assert_array_equal(places(frame), places(stp.get.nuclei(found)))
        assert shapely.equals(frame.geometry.iloc[0], stp.get.nuclei(found).geometry.iloc[0])


def test_spatialdata_has_them_as_shapes(image, tmp_path):
    import spatialdata

    adata = table(image, "a", "b c")
    sdata = stp.io.to_spatialdata(adata, images=False, radius_px=5)
    stp.pp.nuclei(sdata, image={"a": image, "b c": image[:280]}, **OPTIONS)
    assert {"a_nuclei", "b_c_nuclei"} <= set(sdata.shapes)
    sdata.write(tmp_path / "s.zarr")
    again = spatialdata.read_zarr(tmp_path / "s.zarr")
    assert len(stp.get.nuclei(again, "b c")) == len(sdata.shapes["b_c_nuclei"]) > 0
    stp.pp.nuclei_features(again)
    assert again.tables["table"].obsm["X_nuclei"].shape == (2, 38)


def test_a_segmentation_of_others_is_measured_alike(image, found):
    own = stp.get.nuclei(found)
    given = own[["geometry"]].copy()
    given["type"] = np.where(np.arange(len(own)) % 3, "stroma", "tumor")
    given["source_id"] = [f"n{i}" for i in range(len(own))]
    adata = table(image)
    stp.pp.nuclei(adata, given, image=image, chunk_um=50, **OPTIONS)
    frame = stp.get.nuclei(adata).set_index("source_id").loc[given["source_id"]]
    np.testing.assert_allclose(frame["hematoxylin"], own["hematoxylin"], atol=0.03)
    np.testing.assert_allclose(frame["area_um2"], own.area * 0.25, rtol=1e-5)
    np.testing.assert_allclose(frame["nearest_um"], own["nearest_um"], atol=0.3)
    np.testing.assert_allclose(frame["major_um"], own["major_um"], rtol=0.05)
    assert frame["type"].tolist() == given["type"].tolist()
    record = adata.uns["stpredict"]["nuclei"]
    assert record["method"] == "given"
    assert list(record["types"]) == ["stroma", "tumor"]


def test_nuclei_smaller_than_a_pixel_or_beneath_others_are_kept(image):
    import geopandas as gpd

    middle = shapely.Point(image.shape[1] / 2, image.shape[0] / 2)
    shapes = [middle.buffer(0.1), middle.buffer(8), middle.buffer(9)]
    adata = table(image)
    stp.pp.nuclei(adata, gpd.GeoDataFrame(geometry=shapes), image=image, **OPTIONS)
    frame = stp.get.nuclei(adata)
    assert len(frame) == 3
    assert np.isfinite(frame.drop(columns="geometry").to_numpy(dtype=float)).all()


def test_wrong_scales_sections_and_sizes_are_refused(image, found):
    given = stp.get.nuclei(found)[["geometry"]]
    adata = table(image)
    with pytest.raises(ValueError, match="beyond it.*read_nuclei"):
        stp.pp.nuclei(adata, stp.io.read_nuclei(given, scale=4), image=image, **OPTIONS)
    with pytest.raises(KeyError, match="found one of 'other'"):
        stp.pp.nuclei(adata, {"other": given}, image=image, **OPTIONS)
    with pytest.raises(ValueError, match="expected `segmentation=` as a mapping"):
        stp.pp.nuclei(table(image, "a", "b"), given, image={"a": image, "b": image}, **OPTIONS)
    with pytest.raises(ValueError, match="expected min_area_um2 below max_area_um2"):
        stp.pp.nuclei(adata, image=image, min_area_um2=50, max_area_um2=20, **OPTIONS)
    with pytest.raises(KeyError, match="run stp.pp.nuclei first"):
        stp.get.nuclei(adata)
    assert "nuclei" not in adata.uns
    assert "nuclei" not in adata.uns.get("stpredict", {})


def test_sections_that_are_not_given_stay_as_they_are(image, found):
    adata = table(image, "a", "b")
    images = {"a": image, "b": image}
    stp.pp.nuclei(adata, image=images, **OPTIONS)
    before = places(stp.get.nuclei(adata, "b"))
    stp.pp.nuclei(adata, {"a": stp.get.nuclei(found)[["geometry"]].iloc[:5]}, image=images, **OPTIONS)
    assert len(stp.get.nuclei(adata, "a")) == 5
    np.testing.assert_array_equal(places(stp.get.nuclei(adata, "b")), before)
    with pytest.raises(ValueError, match="expected the name of one of 2 sections"):
        stp.get.nuclei(adata)


def test_slides_are_streamed_where_there_is_tissue(image, tmp_path):
    import tifffile

    canvas = np.full((700, 1500, 3), 240, np.uint8)
    canvas[100 : 100 + image.shape[0], 200 : 200 + image.shape[1]] = image
    tifffile.imwrite(tmp_path / "slide.tiff", canvas, tile=(256, 256), photometric="rgb")
    slide = stp.io.open_slide(tmp_path / "slide.tiff", microns_per_pixel=0.5)
    stp.pp.nuclei(slide, chunk_um=5000, progress=False)
    whole = stp.get.nuclei(slide)
    assert len(whole) > 40
    stp.pp.nuclei(slide, chunk_um=70, progress=False)
    np.testing.assert_allclose(places(stp.get.nuclei(slide)), places(whole), rtol=1e-5)

    slide.shapes["tissues"] = slide.shapes["nuclei"].iloc[:1][["geometry"]].copy()
    changed = stp.pp.nuclei(slide, chunk_um=70, progress=False, copy=True, key_added="some")
    assert 0 < len(changed.shapes["some"]) < len(whole)
    assert "some" not in slide.shapes
    assert changed.attrs["stpredict"]["some"]["n_nuclei"]["slide"] == len(changed.shapes["some"])
    with pytest.raises(ValueError, match="expected no `image=` with a slide"):
        stp.pp.nuclei(slide, image=image)

    stp.pp.tiles(slide, tile_um=56, max_background=1.0, min_contrast=0.0, tissue_key="tissues")
    stp.pp.nuclei_features(slide, key_added="X_known")
    known = slide.tables["known_tiles"]
    stp.pp.image_features(slide, "nuclei", cache=False, progress=False)
    own = slide.tables["nuclei_tiles"]
    assert known.shape == own.shape == (len(slide.shapes["tiles"]), 38)
    assert np.corrcoef(known.X[:, 0], own.X[:, 0])[0, 1] > 0.9
    assert stp.pl.nuclei(slide, side_um=50).get_title() == "slide"


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("stretch", [(1.0, 0.6), (0.7, 1.0)])
def test_pixels_that_are_not_square_change_no_size(image, found, given, stretch):
    """The picture as another machine stored it, with fewer pixels along one side."""
    from PIL import Image

    height, width = image.shape[:2]
    shape = round(width * stretch[0]), round(height * stretch[1])
    stored = np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BOX))
    mpp = 0.5 * width / shape[0], 0.5 * height / shape[1]
    positions = pd.DataFrame({"x": [shape[0] / 2], "y": [shape[1] / 2]}, index=["spot"])
    adata = stp.io.from_tables(
        None, positions, stored, sample="s", patient="p", microns_per_pixel=mpp, spot_diameter_um=5, check=False
    )
    segmentation = None
    whole = stp.get.nuclei(found)
    if given:
        outlines = whole[["geometry"]].copy()
        outlines["geometry"] = outlines.scale(shape[0] / width, shape[1] / height, origin=(0, 0))
        scale = tuple(side / min(mpp) for side in mpp)
        segmentation = stp.io.read_nuclei(outlines, scale=scale)
    stp.pp.nuclei(adata, segmentation, progress=False)
    again = stp.get.nuclei(adata)
    if given:  # of polygons it is their own
        whole = whole.assign(perimeter_um=whole.length * 0.5)
    um = min(mpp)
    here, there = (frame[["x", "y"]].to_numpy() * side for frame, side in ((again, um), (whole, 0.5)))
    gap = np.abs(here[:, None] - there).max(axis=2)
    near = gap.argmin(axis=1)
    same = gap.min(axis=1) < 2  # µm: what is parted otherwise, where detail was lost, is another nucleus
    assert same.mean() > 0.85
    assert abs(len(again) - len(whole)) < 0.15 * len(whole)
    for name, tolerance in {
        "area_um2": 0.08,
        "major_um": 0.05,
        "minor_um": 0.05,
        "nearest_um": 0.03,
        "perimeter_um": 0.05,
    }.items():
        ratio = again[name].to_numpy()[same] / whole[name].to_numpy()[near[same]]
        assert np.median(ratio) == pytest.approx(1, abs=tolerance), name
    np.testing.assert_allclose(again.area * um**2, again["area_um2"], rtol=0.2)
