from __future__ import annotations

from collections.abc import Callable
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from skimage.exposure import is_low_contrast
from spatialdata.models import ShapesModel

import stpredict as stp
from stpredict.pp._tiles import _contrast
from stpredict.pp._tissue_share import area_means, raster

Opener = Callable[..., Any]


def test_raster_follows_the_even_parts_of_polygons() -> None:
    ring = shapely.Point(100, 80).buffer(60).difference(shapely.Point(110, 85).buffer(20))
    island = shapely.Point(110, 85).buffer(8)
    shape = shapely.MultiPolygon([ring, island])
    mask = raster(np.array([shape, shapely.box(-20, 150, 50, 300)]), (220, 200), 1.0)
    x, y = np.meshgrid(np.arange(220) + 0.5, np.arange(200) + 0.5)
    truth = shapely.contains_xy(shape, x, y) | shapely.contains_xy(shapely.box(-20, 150, 50, 300), x, y)
    assert (mask != truth).mean() < 1e-4


def test_raster_of_overlapping_polygons_is_their_union() -> None:
    mask = raster(np.array([shapely.box(10, 10, 60, 60), shapely.box(40, 40, 90, 90)]), (100, 100), 0.5)
    assert mask.sum() == 25 * 25 * 2 - 10 * 10


def test_area_means_are_exact_for_squares_that_cut_pixels() -> None:
    mask = np.random.default_rng(0).random((40, 50)) < 0.5
    top, left, side = np.arange(9) * 4.3, np.arange(12) * 4.3, 4.3
    fine = np.kron(mask, np.ones((10, 10)))  # 0.1-px pixels
    fine = np.pad(fine, 100)
    found = area_means(mask, top, left, side)
    for i, y in enumerate(top):
        for j, x in enumerate(left):
            a, b = round(y * 10) + 100, round(x * 10) + 100
            assert found[i, j] == pytest.approx(fine[a : a + 43, b : b + 43].mean(), abs=1e-9)


def test_contrast_agrees_with_scikit_image() -> None:
    rng = np.random.default_rng(0)
    width = rng.uniform(0, 30, 40)
    pixels = np.clip(150 + rng.normal(size=(40, 16, 16, 3)) * width[:, None, None, None], 0, 255).astype(np.uint8)
    low = [is_low_contrast(tile, fraction_threshold=0.05) for tile in pixels]
    assert 0 < sum(low) < 40
    np.testing.assert_array_equal(_contrast(pixels) < 0.1, low)


@pytest.mark.parametrize("mpp", [1.0, 0.997])
def test_tiles_cover_the_tissue_without_drift(open_painted: Opener, mpp: float) -> None:
    slide = open_painted(mpp=1.0, given=mpp)
    stp.pp.tissue(slide)
    assert stp.pp.tiles(slide, tile_um=64, tile_px=64) is None
    frame, side = slide.shapes["tiles"], 64 / mpp
    assert {"tile_id", "x", "y", "tissue_id", "array_row", "array_col", "tissue_fraction"} <= set(frame.columns)
    np.testing.assert_allclose(frame["x"], frame["array_col"] * side, rtol=0, atol=1e-9)
    np.testing.assert_allclose(frame["y"], frame["array_row"] * side, rtol=0, atol=1e-9)
    np.testing.assert_allclose(frame.geometry.area, side**2)
    assert not frame[["array_row", "array_col"]].duplicated().any()
    tissue = slide.shapes["tissues"].union_all()
    exact = frame.geometry.intersection(tissue).area / frame.geometry.area
    np.testing.assert_allclose(frame["tissue_fraction"], exact, atol=0.03)
    assert frame["tissue_fraction"].min() >= 0.8
    assert abs(len(frame) * side**2 / tissue.area - 1) < 0.2
    assert set(frame["tissue_id"]) == {0, 1}
    left = frame["x"] < 800
    assert (frame["tissue_id"][left] == 0).all()
    assert slide.tile_spec("tiles").mpp == 1.0
    assert slide.attrs["stpredict"]["tiles"]["tile_um"] == 64
    assert slide.attrs["stpredict"]["sample"] == "slide"


def test_tiles_are_what_wsidata_reads(tiled: Any) -> None:
    first = next(iter(tiled.iter.tile_images("tiles")))
    x, y = tiled.shapes["tiles"].iloc[0][["x", "y"]].astype(int)
    np.testing.assert_array_equal(first.image, tiled.reader.get_region(x, y, 64, 64))


def test_tiles_are_drawn_by_seed(tiled: Any) -> None:
    every = len(tiled.shapes["tiles"])
    drawn = [stp.pp.tiles(tiled, tile_um=64, tile_px=64, max_tiles=20, seed=s, copy=True) for s in (0, 0, 1)]
    frames = [slide.shapes["tiles"] for slide in drawn]
    assert [len(frame) for frame in frames] == [20] * 3
    assert len(tiled.shapes["tiles"]) == every
    np.testing.assert_array_equal(frames[0]["x"], frames[1]["x"])
    assert list(zip(frames[0]["x"], frames[0]["y"], strict=True)) != list(
        zip(frames[2]["x"], frames[2]["y"], strict=True)
    )
    order = np.lexsort((frames[0]["array_col"], frames[0]["array_row"]))
    np.testing.assert_array_equal(order, np.arange(20))
    assert tiled.attrs["stpredict"]["tiles"]["max_tiles"] == 4000


def test_tiles_without_contrast_are_dropped_and_replaced(open_painted: Opener) -> None:
    slide = open_painted()
    picture = slide.reader.get_region(0, 0, 1400, 1000).copy()
    picture[100:900, 100:400] = (185, 105, 160)
    slide = open_painted(picture, name="flat")
    stp.pp.tissue(slide)
    stp.pp.tiles(slide, tile_um=64, tile_px=64, min_contrast=0)
    both = len(slide.shapes["tiles"])
    stp.pp.tiles(slide, tile_um=64, tile_px=64)
    frame = slide.shapes["tiles"]
    assert 0.4 < len(frame) / both < 0.8
    assert (frame["x"] + 64 > 400 - 64).all()
    assert slide.attrs["stpredict"]["tiles"]["with_tissue"] == both
    few = len(frame) - 2
    stp.pp.tiles(slide, tile_um=64, tile_px=64, max_tiles=few)
    assert len(slide.shapes["tiles"]) == few  # low contrast ones do not count


def test_stride_overlaps_tiles(tiled: Any) -> None:
    once = len(tiled.shapes["tiles"])
    stp.pp.tiles(tiled, tile_um=64, tile_px=64, stride_um=32)
    assert 3 < len(tiled.shapes["tiles"]) / once < 5
    assert tiled.tile_spec("tiles").stride_width == 32


def test_tissue_of_another_tool_is_taken(open_painted: Opener) -> None:
    from spatialdata.models import ShapesModel

    slide = open_painted()
    slide.shapes["mine"] = ShapesModel.parse(gpd.GeoDataFrame(geometry=[shapely.box(128, 128, 384, 384)]))
    stp.pp.tiles(slide, tile_um=64, tile_px=64, tissue_key="mine", key_added="few")
    assert len(slide.shapes["few"]) == 16


def test_tiles_refuse_what_cannot_be(open_painted: Opener) -> None:
    slide = open_painted()
    with pytest.raises(KeyError, match="run stp.pp.tissue"):
        stp.pp.tiles(slide)
    stp.pp.tissue(slide)
    with pytest.raises(ValueError, match=r"expected at least 500 tiles on slide 'slide'; found \d+"):
        stp.pp.tiles(slide, tile_um=64, tile_px=64, min_tiles=500)
    with pytest.raises(ValueError, match="at least a pixel"):
        stp.pp.tiles(slide, tile_um=0.5)
    with pytest.raises(ValueError, match="max_background between 0 and 1"):
        stp.pp.tiles(slide, max_background=20)
    with pytest.raises(ValueError, match="max_tiles"):
        stp.pp.tiles(slide, max_tiles=0)
    assert "tiles" not in slide.shapes
    assert "tile_spec" not in slide.attrs


def test_coarse_scans_are_warned_about(open_painted: Opener) -> None:
    slide = open_painted()
    stp.pp.tissue(slide)
    with pytest.warns(UserWarning, match="64 pixels across at 1 µm.*not 256"):
        stp.pp.tiles(slide, tile_um=64)


@pytest.mark.parametrize(
    ("box", "segments", "cells", "side"),
    [
        ((100, 900, 200, 700), 1, [20, 16], 40.0),  # upright and higher than 5:4
        ((100, 900, 100, 900), 4, [40, 32], 25.0),  # square: upright
        ((300, 700, 100, 900), 1, [16, 20], 40.0),  # lying
        ((0, 1000, 0, 1300), 1, [16, 20], 65.0),  # up to the border, padded beyond it
    ],
)
def test_a_grid_covers_the_tissue(
    open_painted: Opener, box: tuple[int, int, int, int], segments: int, cells: list[int], side: float
) -> None:
    slide = open_painted(np.full((1000, 1400, 3), 200, np.uint8))
    top, bottom, left, right = box
    slide.shapes["tissues"] = ShapesModel.parse(gpd.GeoDataFrame(geometry=[shapely.box(left, top, right, bottom)]))
    options: dict[str, Any] = {"tile_px": 16, "max_background": 0.99, "min_contrast": 0, "max_tiles": None}
    stp.pp.tiles(slide, grid=(20, 16), segments=segments, **options)
    frame, record = slide.shapes["tiles"], slide.attrs["stpredict"]["tiles"]
    assert record["grid"] == cells
    assert record["tile_um"] == record["stride_um"] == pytest.approx(side)
    np.testing.assert_allclose(frame.geometry.area, side**2)
    assert frame["array_row"].between(0, cells[0] - 1).all()
    assert frame["array_col"].between(0, cells[1] - 1).all()
    assert slide.shapes["tissues"].union_all().difference(frame.union_all().buffer(1e-6)).area < 1
    # padded by the same on both sides
    x, y = (frame[axis] - frame[name] * side for axis, name in (("x", "array_col"), ("y", "array_row")))
    np.testing.assert_allclose(x + cells[1] * side / 2, (left + right) / 2)
    np.testing.assert_allclose(y + cells[0] * side / 2, (top + bottom) / 2)
    tissue = slide.shapes["tissues"].union_all()
    exact = frame.geometry.intersection(tissue).area / side**2
    np.testing.assert_allclose(frame["tissue_fraction"], exact, atol=0.05)
    assert max(np.ptp(frame["array_row"]) + 1 - cells[0], np.ptp(frame["array_col"]) + 1 - cells[1]) == 0


def test_features_of_a_grid_keep_their_cells(open_painted: Opener) -> None:
    slide = open_painted()
    stp.pp.tissue(slide)
    with pytest.warns(UserWarning, match="have .* pixels across"):
        stp.pp.tiles(slide, grid=(10, 8), tile_px=512)
    assert slide.attrs["stpredict"]["tiles"]["grid"] == [8, 10]
    stp.pp.image_features(slide, "color-texture", cache=False, progress=False)
    table = slide.tables["color-texture_tiles"]
    frame = slide.shapes["tiles"]
    np.testing.assert_allclose(table.obsm["spatial"], np.column_stack([frame.centroid.x, frame.centroid.y]))
    stp.pp.grid(table)
    assert table.uns["stpredict"]["grid"]["lattice"] == {"slide": "square"}
    for key in ("row", "col"):
        assert np.ptp(table.obs[f"grid_{key}"].to_numpy() - frame[f"array_{key}"].to_numpy()) == 0


def test_tiles_left_out_of_a_grid(open_painted: Opener) -> None:
    slide = open_painted()
    stp.pp.tissue(slide)
    with pytest.warns(UserWarning, match="max_tiles=20 leaves out tiles by chance"):
        stp.pp.tiles(slide, grid=(20, 16), tile_px=16, max_tiles=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": (20, 16), "tile_um": 64}, "neither tile_um nor stride_um"),
        ({"grid": (20, 16), "stride_um": 64}, "neither tile_um nor stride_um"),
        ({"segments": 4}, "segments=1 without `grid`"),
        ({"grid": (20, 16), "segments": 2}, "square number of segments"),
        ({"grid": (20, 16), "segments": 0}, "segments to be a positive whole number"),
        ({"grid": (20, 0)}, r"grid\[1\] to be a positive whole number"),
        ({"grid": (20,)}, "two numbers of tiles"),
        ({"grid": (20000, 16000)}, "tiles of at least a pixel"),
    ],
)
def test_grids_that_cannot_be(open_painted: Opener, options: dict[str, Any], message: str) -> None:
    slide = open_painted()
    stp.pp.tissue(slide)
    with pytest.raises(ValueError, match=message):
        stp.pp.tiles(slide, **options)
    assert "tiles" not in slide.shapes


def model_of(tile_um: Any, tile_px: int | None = 112, slots: int = 1) -> Any:
    """A fitted model that reads features of tiles of this size."""
    from stpredict.training import FittedModel

    model = object.__new__(FittedModel)
    model.features = {"slots": {f"X_{i}": {"tile_um": tile_um, "tile_px": tile_px} for i in range(slots)}}
    return model


def test_tiles_like_those_of_a_model(tiled: Any) -> None:
    stp.pp.tiles(tiled, like=model_of(80.0, 80), key_added="own")
    record = tiled.attrs["stpredict"]["own"]
    assert (record["tile_um"], record["tile_px"], record["stride_um"]) == (80.0, 80, 80.0)
    stp.pp.tiles(tiled, like=[model_of(80.0)] * 2, tile_px=40, stride_um=40, key_added="own")
    record = tiled.attrs["stpredict"]["own"]
    assert (record["tile_um"], record["tile_px"], record["stride_um"]) == (80.0, 40, 40.0)
    assert record["context"] == {}
    wide = model_of(80.0)
    wide.features["slots"]["X_0"] |= {"encoder": "color-texture", "context": [1.0, 5.0]}
    stp.pp.tiles(tiled, like=wide, key_added="own")
    assert tiled.attrs["stpredict"]["own"]["context"] == {"color-texture": [1.0, 5.0]}
    both = model_of(80.0, 40, slots=2)  # of two encoders, which resize the same tiles
    both.features["slots"]["X_1"]["tile_px"] = 80
    stp.pp.tiles(tiled, like=both, key_added="own")
    assert (tiled.attrs["stpredict"]["own"]["tile_um"], tiled.attrs["stpredict"]["own"]["tile_px"]) == (80.0, 80)


@pytest.mark.parametrize(
    ("like", "options", "error", "message"),
    [
        (lambda: model_of(80.0), {"tile_um": 64}, ValueError, "neither tile_um nor grid"),
        (lambda: model_of(None), {}, ValueError, "one size of tiles.*tile_um="),
        (lambda: [model_of(80.0), model_of(64.0)], {}, ValueError, "one size of tiles"),
        (lambda: model_of(80.0, slots=0), {}, ValueError, "found none"),
        (lambda: "no such folder", {}, FileNotFoundError, "no such folder"),
        (lambda: 112, {}, TypeError, "`like` as a model"),
        (lambda: [], {}, TypeError, "`like` as a model"),
    ],
)
def test_models_that_say_no_size(tiled: Any, like: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        stp.pp.tiles(tiled, like=like(), **options)
