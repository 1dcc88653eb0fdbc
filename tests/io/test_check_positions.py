"""Positions are refused as swapped on decisive evidence only."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.io._check_positions import check_positions
from stpredict.io._section_image import SectionImage

PALE, PINK, GRAY, FAT = (225, 190, 215), (180, 110, 160), (90, 90, 90), (238, 228, 235)


def section(color: tuple[int, int, int], background: int = 245) -> np.ndarray:
    """Tissue in the upper right of a square picture."""
    picture = np.full((400, 400, 3), background, dtype=np.uint8)
    picture[30:280, 150:380] = color
    return picture


def grid(x: float = 160, y: float = 35) -> np.ndarray:
    row, column = np.mgrid[:9, :9].reshape(2, -1)
    return np.column_stack([x + 27.0 * column, y + 27.0 * row])


def with_strip(picture: np.ndarray) -> np.ndarray:
    picture[310:] = 0
    return picture


def with_side(picture: np.ndarray) -> np.ndarray:
    picture[:, :120] = 0
    return picture


def with_frame(picture: np.ndarray) -> np.ndarray:
    for part in (picture[:25], picture[-25:], picture[:, :25], picture[:, -25:]):
        part[:] = 0
    return picture


def with_pen(ink: tuple[int, int, int]):
    def draw(picture: np.ndarray) -> np.ndarray:
        picture[290:390, 20:300] = ink
        return picture

    return draw


BORDERS = {
    "strip": with_strip, "side": with_side, "frame": with_frame, "black pen": with_pen((30, 30, 35)),
    "blue pen": with_pen((40, 60, 170)), "green pen": with_pen((30, 140, 70)), "red pen": with_pen((200, 40, 50)),
}  # fmt: skip


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("color", [PALE, PINK, GRAY, FAT])
def test_borders_and_pen_are_no_sign_of_swapped_axes(border, color):
    check_positions(grid(), SectionImage(BORDERS[border](section(color))), "S")


@pytest.mark.parametrize("border", [None, "strip", "frame", "blue pen"])
@pytest.mark.parametrize("color", [PALE, PINK])
def test_swapped_axes_are_found_beside_them(border, color):
    picture = section(color) if border is None else BORDERS[border](section(color))
    with pytest.raises(ValueError, match="pass `check=False`"):
        check_positions(grid()[:, ::-1], SectionImage(picture), "S")


@pytest.mark.parametrize("background", [0, 12, 40, 60])
@pytest.mark.parametrize("color", [(40, 160, 90), (180, 180, 180), (30, 60, 200), (110, 100, 120)])
def test_bright_tissue_on_a_dark_background(background, color):
    check_positions(grid(), SectionImage(section(color, background)), "S")
    filled = np.full((400, 400, 3), background, dtype=np.uint8)
    filled[:, 100:] = color
    check_positions(grid(160, 100), SectionImage(filled), "S")
    if color == (40, 160, 90):
        with pytest.raises(ValueError, match="swapped"):
            check_positions(grid()[:, ::-1], SectionImage(section(color, background)), "S")


def test_tissue_that_fills_the_picture_is_no_background():
    picture = np.full((400, 400, 3), PINK, dtype=np.uint8)
    picture[:300, :120] = 245
    check_positions(grid(150, 60), SectionImage(picture), "S")
    picture[:, :] = PALE
    picture[200:, :180] = (120, 60, 110)
    check_positions(grid(170, 10), SectionImage(picture), "S")


def table(xy: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(xy, columns=["x", "y"], index=[f"spot{i}" for i in range(len(xy))])


def test_check_false_overrides_from_reading_to_features(tmp_path):
    picture, swapped = section(PINK), table(grid()[:, ::-1])
    with pytest.raises(ValueError, match="swapped"):
        stp.io.from_tables(None, swapped, picture, microns_per_pixel=1.0, sample="S")
    adata = stp.io.from_tables(None, swapped, picture, microns_per_pixel=1.0, sample="S", check=False)
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    import anndata

    again = anndata.read_h5ad(path)
    stp.pp.image_features(again, image=picture, tile_um=112, cache=False, progress=False)
    assert again.obsm["X_color-texture"].shape[0] == 81
    again.uns["spatial"]["S"]["metadata"] = {}
    with pytest.raises(ValueError, match="swapped"):
        stp.pp.image_features(again, image=picture, tile_um=112, cache=False, progress=False)
    stp.pp.image_features(again, image=picture, tile_um=112, cache=False, progress=False, check=False)


def test_what_lies_outside_is_refused_in_any_case():
    xy = grid()
    xy[3] = (500, 20)
    with pytest.raises(ValueError, match="1 of 81 outside"):
        check_positions(xy, SectionImage(section(PINK)), "S", check=False)


@pytest.mark.parametrize("kind", ["gray", "compressed", "with fiducials", "H&E", "pale H&E"])
def test_pictures_without_color_are_told_from_pale_ones(kind: str) -> None:
    """A gray picture is stored in three channels, with fiducials drawn in red over it; what counts is under the spots."""
    rng = np.random.default_rng(0)
    picture = section({"H&E": PINK, "pale H&E": (228, 222, 226)}.get(kind, (205, 205, 205)))
    if kind == "compressed":
        picture = picture + rng.integers(0, 2, picture.shape, dtype=np.uint8)
    if kind == "with fiducials":
        picture[:60] = picture[300:] = (200, 40, 50)
    said = [] if "H&E" in kind else ["its image is gray"]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        check_positions(grid(160, 65), SectionImage(picture), "S1")
    assert [str(one.message).partition(": ")[2].partition(";")[0] for one in found] == said


def test_a_smaller_picture_of_the_pipeline_is_named() -> None:
    with pytest.raises(ValueError, match="81 of 81 outside.*hires and lowres pictures of Space Ranger"):
        check_positions(grid() * 5, SectionImage(section(PINK)), "S1")
