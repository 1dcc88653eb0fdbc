"""Slides give the same colors as sections, whatever their file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stpredict as stp
from stpredict.io._image import SectionImage
from stpredict.io._read_level import read_level

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("wsidata")


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[:300, :420]
    picture = np.stack([80 + x % 170, 60 + y % 190, 255 - x % 200], axis=2).astype(np.uint8)
    picture[0, 0] = 255
    return picture


def both(path: Path) -> tuple[np.ndarray, np.ndarray]:
    slide: Any = stp.io.open_slide(path, 0.5)
    image = SectionImage(path)
    return read_level(slide.reader, 0, 0, 0, image.width, image.height), image.band(0, image.height)


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rgb": (lambda p: p, {"photometric": "rgb"}),
    "tiles": (lambda p: p, {"photometric": "rgb", "tile": (128, 128)}),
    "gray": (lambda p: p[..., 0], {"photometric": "minisblack", "tile": (128, 128)}),
    "sixteen bits": (lambda p: p.astype(np.uint16) << 8, {"photometric": "rgb", "tile": (128, 128)}),
    "twelve bits": (lambda p: p.astype(np.uint16) << 4, {"photometric": "rgb", "tile": (128, 128)}),
    "gray of fourteen bits": (lambda p: p[..., 0].astype(np.uint16) << 6, {"photometric": "minisblack"}),
    "planes": (lambda p: np.moveaxis(p, -1, 0), {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "ome": True}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_slides(pixels, tmp_path, kind):
    change, options = KINDS[kind]
    tifffile.imwrite(tmp_path / "a.tif", np.ascontiguousarray(change(pixels)), **options)
    expected = pixels[..., :1].repeat(3, axis=2) if "gray" in kind else pixels
    for found in both(tmp_path / "a.tif"):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("tile", [None, (128, 128)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_was_not_scanned_is_white(pixels, tmp_path, tile, dtype):
    alpha = np.full((300, 420, 1), 255, dtype=np.uint8)
    alpha[:, 250:] = 0
    pixels[:, 250:] = 0
    rgba = np.dstack([pixels, alpha]).astype(dtype) * dtype(1 if dtype == np.uint8 else 257)
    options = {} if tile is None else {"tile": tile}
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"], **options)
    pixels[:, 250:] = 255
    for found in both(tmp_path / "a.tif"):
        np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("channels", [4, 5])
def test_slides_without_colors_are_refused(tmp_path, channels):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((channels, 300, 420), np.uint16), photometric="minisblack",
        metadata={"axes": "CYX"}, ome=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"found MINISBLACK with {channels} channels"):
        stp.io.open_slide(tmp_path / "a.tif", 0.5)


def test_large_regions_are_those_of_openslide(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (600, 9000, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(256, 256))
    slide: Any = stp.io.open_slide(tmp_path / "a.tif", 0.5)
    assert slide.reader.name == "openslide"
    np.testing.assert_array_equal(read_level(slide.reader, 0, 5, 7, 8990, 590), pixels[7:597, 5:8995])
