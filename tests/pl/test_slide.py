from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection

import stpredict as stp

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("wsidata")


@pytest.fixture
def drawn(tmp_path: Path) -> Any:
    """Slide of 1000 × 800 px at 1 µm/px with tissue, a hole in it, 64-µm tiles and their features."""
    rng = np.random.default_rng(0)
    picture = np.full((800, 1000, 3), 243, dtype=np.uint8)
    picture[100:700, 200:900] = np.array([185, 105, 160]) + rng.integers(-40, 41, (600, 700, 1))
    picture[300:500, 400:600] = 243
    tifffile.imwrite(tmp_path / "s.tiff", picture, tile=(256, 256), photometric="rgb", compression="deflate")
    slide = stp.io.open_slide(tmp_path / "s.tiff", 1.0)
    stp.pp.tissue(slide)
    stp.pp.tiles(slide, tile_um=64, tile_px=64)
    stp.pp.image_features(slide)
    table = slide.tables["color-texture_tiles"]
    table.obsm["predicted"] = pd.DataFrame({"A": np.arange(table.n_obs) / 10.0}, index=table.obs_names)
    table.obs["domain"] = pd.Categorical(np.where(table.obs["array_col"] < 8, "x", "y"))
    return slide


def collections(ax: Any, kind: type) -> list[Any]:
    return [artist for artist in ax.collections if type(artist) is kind]


def test_outlines_and_tiles_are_one_artist_each(drawn: Any) -> None:
    ax = stp.pl.slide(drawn)
    (lines,), (boxes,) = collections(ax, LineCollection), collections(ax, PolyCollection)
    assert len(lines.get_segments()) == 2  # outline and hole
    assert len(boxes.get_paths()) == len(drawn.shapes["tiles"])
    x, y = drawn.shapes["tiles"].iloc[3][["x", "y"]]
    np.testing.assert_allclose(boxes.get_paths()[3].get_extents().bounds, (x, y, 64, 64))
    assert ax.get_xlim() == (0, 1000)
    assert ax.get_ylim() == (800, 0)
    assert "200 µm" in {text.get_text() for text in ax.texts}
    assert ax.images[0].get_extent() == [0, 1000, 800, 0]


def test_parts_can_be_left_out(drawn: Any) -> None:
    ax = stp.pl.slide(drawn, tiles=False, tissue=False)
    assert not ax.collections


def test_predicted_genes_color_the_tiles(drawn: Any) -> None:
    table = drawn.tables["color-texture_tiles"]
    reversed_table = table[::-1].copy()
    drawn.tables["color-texture_tiles"] = reversed_table[:-1].copy()  # another order, and one tile without a value
    (boxes,) = collections(stp.pl.slide(drawn, color="A", vmin=0, vmax=2), PolyCollection)
    shown = boxes.get_array()
    np.testing.assert_allclose(shown.filled(np.nan)[1:], table.obsm["predicted"]["A"].to_numpy()[1:])
    assert shown.mask[0]
    assert boxes.get_clim() == (0, 2)


def test_categories_and_columns_of_tiles_color_them(drawn: Any) -> None:
    ax = stp.pl.slide(drawn, color="domain")
    (boxes,) = collections(ax, PolyCollection)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["x", "y"]
    assert len(np.unique(boxes.get_facecolor(), axis=0)) == 2
    (boxes,) = collections(stp.pl.slide(drawn, color="tissue_fraction"), PolyCollection)
    np.testing.assert_allclose(boxes.get_array(), drawn.shapes["tiles"]["tissue_fraction"])


def test_axes_are_used_and_files_without_reader_shown(drawn: Any) -> None:
    _, ax = plt.subplots()
    assert stp.pl.slide(drawn.to_spatialdata(), ax=ax) is ax
    ax.figure.canvas.draw()


def test_unknown_colors_are_refused(drawn: Any) -> None:
    with pytest.raises(KeyError, match="'ERBB2'"):
        stp.pl.slide(drawn, color="ERBB2")
    with pytest.raises(KeyError, match="other_tiles"):
        stp.pl.slide(drawn, color="A", table_key="other_tiles")
    drawn.tables["second_tiles"] = drawn.tables["color-texture_tiles"].copy()
    with pytest.raises(ValueError, match="choose with `table_key=`"):
        stp.pl.slide(drawn, color="A")
    assert stp.pl.slide(drawn, color="A", table_key="second_tiles").collections
    with pytest.raises(TypeError, match="open_slide"):
        stp.pl.slide(drawn.tables["second_tiles"])
