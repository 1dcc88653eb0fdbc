from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import spatialdata as sd
import torch

import stpredict as stp
from stpredict.io._slide import Windows, slide_thumbnail, windows_of
from stpredict.slots._features import feature_matrix
from stpredict.slots._provenance import read_record

KEY, TABLE = "X_color-texture", "color-texture_tiles"


class Recording(torch.nn.Module):
    """Mean color of a tile; counts the tiles it has seen and can break down after some."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__()
        self.seen, self.last = 0, last

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        self.seen += len(tiles)
        if self.last is not None and self.seen > self.last:
            raise KeyboardInterrupt
        return tiles.mean(dim=(2, 3))

    def __repr__(self) -> str:
        return "Recording()"


def test_features_equal_those_of_the_whole_picture(tiled: Any) -> None:
    stp.pp.image_features(tiled, cache=False)
    table = tiled.tables[TABLE]
    picture = tiled.reader.get_region(0, 0, 1400, 1000)
    spots = ad.AnnData(np.zeros((table.n_obs, 1)), obs=table.obs[["sample"]], obsm={"spatial": table.obsm["spatial"]})
    stp.pp.image_features(spots, image=picture, microns_per_pixel=1.0, tile_um=64, context=(1,), cache=False)
    np.testing.assert_allclose(table.X, spots.obsm[KEY], rtol=0, atol=1e-6)


def test_table_follows_the_contract(tiled: Any) -> None:
    stp.pp.image_features(tiled)
    table, frame = tiled.tables[TABLE], tiled.shapes["tiles"]
    assert table.X.dtype == np.float32
    np.testing.assert_array_equal(table.obs["tile_id"], frame["tile_id"])
    np.testing.assert_array_equal(table.obs[["array_row", "array_col"]], frame[["array_row", "array_col"]])
    np.testing.assert_allclose(table.obsm["spatial"], frame[["x", "y"]].to_numpy() + 32)
    assert set(table.obs["sample"]) == {"slide"}
    assert set(table.obs["patient"]) == {"P1"}
    assert set(table.obs["library_id"]) == {"tiles"}
    attributes = table.uns["spatialdata_attrs"]
    assert (attributes["region"], attributes["region_key"], attributes["instance_key"]) == (
        "tiles",
        "library_id",
        "tile_id",
    )
    factors = table.uns["spatial"]["slide"]["scalefactors"]
    assert factors["microns_per_pixel"] == 1.0
    assert factors["spot_diameter_fullres"] == 64
    picture = table.uns["spatial"]["slide"]["images"]["hires"]
    assert picture.shape[1] / factors["tissue_hires_scalef"] == pytest.approx(1400, abs=2)
    record = read_record(table, KEY)
    assert record["encoder"] == "color-texture"
    assert (record["tile_um"], record["tile_px"], record["context"]) == (64, 112, [1.0])
    assert record["microns_per_pixel"] == {"slide": 1.0}
    assert feature_matrix(table, KEY) is table.X


def test_slide_survives_a_round_trip_through_zarr(tiled: Any, tmp_path: Path) -> None:
    stp.pp.image_features(tiled)
    tiled.write(tmp_path / "slide.zarr")
    again = sd.read_zarr(tmp_path / "slide.zarr")
    assert not hasattr(again, "reader")
    np.testing.assert_array_equal(again.tables[TABLE].X, tiled.tables[TABLE].X)
    assert read_record(again.tables[TABLE], KEY) == read_record(tiled.tables[TABLE], KEY)
    stp.pp.tissue(again)
    stp.pp.tiles(again, tile_um=64, tile_px=64)
    stp.pp.image_features(again, key_added="X_again", cache=False)
    np.testing.assert_array_equal(again.tables["again_tiles"].X, tiled.tables[TABLE].X)
    os.remove(tiled.attrs["stpredict"]["source_image_path"])
    with pytest.raises(FileNotFoundError, match="source_image_path"):
        stp.pp.image_features(again)


def test_wsidata_reads_the_table(tiled: Any) -> None:
    stp.pp.image_features(tiled)
    fetched = tiled.fetch.features_anndata("color-texture")
    np.testing.assert_array_equal(fetched.X, tiled.tables[TABLE].X)


def test_interrupted_runs_continue(tiled: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("stpredict.pp._tile_chunks._CHUNK", 16)
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path / "cache")
    n = len(tiled.shapes["tiles"])
    options: dict[str, Any] = {"key_added": "X_mine", "tile_px": 32, "batch_size": 8}
    with pytest.raises(KeyboardInterrupt):
        stp.pp.image_features(tiled, Recording(last=50), **options)
    assert "mine_tiles" not in tiled.tables
    whole = Recording()
    stp.pp.image_features(tiled, whole, **options)
    trial = 2  # tiles that tell the number of features
    assert whole.seen == n - 48 + trial
    resumed = tiled.tables["mine_tiles"].X.copy()
    stp.pp.image_features(tiled, Recording(), cache=False, **options)
    np.testing.assert_array_equal(resumed, tiled.tables["mine_tiles"].X)
    cached = Recording()
    stp.pp.image_features(tiled, cached, **options)
    assert cached.seen == trial


def test_cache_is_by_content(open_painted: Callable[..., Any], tiled: Any) -> None:
    options: dict[str, Any] = {"key_added": "X_mine", "tile_px": 32}
    stp.pp.image_features(tiled, Recording(), **options)
    picture = np.ascontiguousarray(tiled.reader.get_region(0, 0, 1400, 1000)[::-1])
    other = open_painted(picture, name="other")
    other.shapes["tiles"] = tiled.shapes["tiles"]
    stp.pp.image_features(other, Recording(), **options)
    assert not np.array_equal(other.tables["mine_tiles"].X, tiled.tables["mine_tiles"].X)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("limit", [96, 4096])
def test_windows_are_cut_where_they_should(
    open_painted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, levels: int, limit: int
) -> None:
    monkeypatch.setattr("stpredict.io._slide._BLOCK_PX", limit)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (500, 700, 3), dtype=np.uint8)
    reader = open_painted(picture, levels=levels).reader
    center = np.concatenate(
        [rng.uniform(0, [700, 500], (60, 2)), [[0, 0], [699, 499], [2, 490], [715, 250], [-12, 300]]]
    )
    windows = windows_of(reader, center, 48.0, 48)
    assert (windows.level, windows.side) == (0, 48)
    padded = np.pad(picture, ((48, 48), (48, 48), (0, 0)), mode="reflect")
    seen = []
    for rows, pixels in windows.read(reader, windows.order()):
        for row, tile in zip(rows, pixels, strict=True):
            x, y = np.round(center[row] - 24).astype(int) + 48
            np.testing.assert_array_equal(tile, padded[y : y + 48, x : x + 48])
        seen.extend(rows)
    assert sorted(seen) == list(range(65))


def test_coarsest_sufficient_level_is_read(open_painted: Callable[..., Any]) -> None:
    reader = open_painted(levels=3).reader
    sides = [
        (w.level, w.side) for w in (windows_of(reader, np.array([[500, 500]]), 256, px) for px in (256, 128, 100, 64))
    ]
    assert sides == [(0, 256), (1, 128), (1, 128), (2, 64)]


def test_windows_wider_than_the_slide_are_reflected(open_painted: Callable[..., Any]) -> None:
    reader = open_painted(np.full((100, 120, 3), 200, dtype=np.uint8), levels=1).reader
    for _, pixels in Windows(0, np.array([[-80, -90]]), 300).read(reader, np.array([0])):
        assert pixels.shape == (1, 300, 300, 3)
        assert (pixels == 200).all()


def test_thumbnail_is_the_area_mean(open_painted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpredict.io._slide._STRIP_BYTES", 100_000)
    picture = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    reader = open_painted(picture, levels=1).reader
    small, factor = slide_thumbnail(reader, 1.0, 8.0)
    assert factor == 8.0
    mean = picture.reshape(50, 8, 75, 8, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, mean, atol=0.51)
    assert max(slide_thumbnail(reader, 1.0, 1.0, max_side=100)[0].shape) <= 100


def test_tiles_decide_the_field_of_view(tiled: Any) -> None:
    stp.pp.image_features(tiled, tile_um=64 * 1.019)
    assert read_record(tiled.tables[TABLE], KEY)["tile_um"] == 64
    with pytest.raises(ValueError, match=r"expected tiles of tile_um=65.34.*found 64 µm"):
        stp.pp.image_features(tiled, tile_um=64 * 1.021)
    with pytest.raises(ValueError, match=r"expected tiles of tile_um=112.*found 64 µm"):
        stp.pp.image_features(tiled, tile_um=112)
    with pytest.raises(ValueError, match="context"):
        stp.pp.image_features(tiled, context=(0, 3))
    with pytest.raises(ValueError, match="microns_per_pixel"):
        stp.pp.image_features(tiled, microns_per_pixel=0.5)


def test_surroundings_of_tiles_are_those_of_larger_tiles(tiled: Any) -> None:
    tiles = tiled.shapes["tiles"]
    stp.pp.image_features(tiled, context=(1, 3))
    both = tiled.tables[TABLE]
    assert (both.n_vars, list(read_record(both, KEY)["context"])) == (306, [1, 3])
    stp.pp.image_features(tiled)
    near = tiled.tables[TABLE].X
    larger = tiles.copy()
    larger.geometry = tiles.geometry.scale(3, 3)
    tiled.shapes["tiles"] = larger
    del tiled.attrs["stpredict"]["tiles"]
    stp.pp.image_features(tiled)
    np.testing.assert_allclose(both.X, np.hstack([near, tiled.tables[TABLE].X]), atol=1e-4)


def test_surroundings_are_those_of_the_model_that_tiles_are_laid_for(tiled: Any) -> None:
    tiled.attrs["stpredict"]["tiles"]["context"] = {"color-texture": [1.0, 2.0], "other": [1.0, 4.0]}
    stp.pp.image_features(tiled)
    assert tiled.tables[TABLE].n_vars == 306
    assert list(read_record(tiled.tables[TABLE], KEY)["context"]) == [1, 2]
    stp.pp.image_features(tiled, context=(1,))
    assert tiled.tables[TABLE].n_vars == 153


def test_copy_and_missing_tiles(open_painted: Callable[..., Any], tiled: Any) -> None:
    changed = stp.pp.image_features(tiled, copy=True)
    assert TABLE in changed.tables
    assert not tiled.tables
    with pytest.raises(KeyError, match="run stp.pp.tiles"):
        stp.pp.image_features(open_painted(name="bare"))


def test_broken_encoders_are_refused(tiled: Any) -> None:
    class Broken(torch.nn.Module):
        def forward(self, tiles: torch.Tensor) -> torch.Tensor:
            return tiles.mean(dim=(2, 3)) * torch.nan

    with pytest.raises(ValueError, match="features of tiles"):
        stp.pp.image_features(tiled, Broken(), key_added="X_broken", tile_px=32)
    assert not tiled.tables
