"""Pictures of every kind mean what a viewer shows: orientation, transparency, palettes, inks, gray."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

import stpredict as stp
from stpredict.io._image import SectionImage, check_positions

H, W = 60, 90


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_orientation_tags_are_followed(shown, pixels, tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if ending == "webp" else {"quality": 98, "subsampling": 0} if ending == "jpg" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=exif, **options)
    found, expected = shown(tmp_path / f"a.{ending}"), TURNS[orientation](pixels)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (6 if ending == "jpg" else 0)


@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_orientation_of_sixteen_bits_and_planes(shown, pixels, tmp_path, orientation):
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "deep.tif", pixels.astype(np.uint16) * 257, photometric="rgb", extratags=tag)
    planes = np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate", extratags=tag)
    for name in ("deep.tif", "planes.tif"):
        np.testing.assert_array_equal(shown(tmp_path / name), TURNS[orientation](pixels))


def test_a_turned_picture_with_transparency(shown, pixels, tmp_path):
    alpha = np.full((H, W, 1), 255, dtype=np.uint8)
    alpha[:20] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "a.png", exif=exif)
    expected = np.where(alpha == 0, 255, pixels).astype(np.uint8)
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), np.rot90(expected, -1))


@pytest.mark.parametrize(
    "kind", ["rgba array", "uint16 array", "float array", "rgba.png", "rgba.tif", "rgba.webp", "xarray"]
)
def test_transparent_pixels_are_white(shown, pixels, tmp_path, kind):
    alpha = np.full((H, W, 1), 255, dtype=np.uint8)
    alpha[30:] = 0
    alpha[29] = 51
    rgba = np.dstack([pixels, alpha])
    expected = np.where(alpha == 0, 255, pixels).astype(float)
    expected[29] = pixels[29] * 0.2 + 255 * 0.8
    source: object = tmp_path / kind
    if kind.startswith("rgba."):
        Image.fromarray(rgba).save(source, **({"lossless": True, "exact": True} if kind.endswith("webp") else {}))
    elif kind == "xarray":
        import xarray as xr

        source = xr.DataArray(np.moveaxis(rgba, -1, 0), dims=("c", "y", "x"))
    else:
        source = {"rgba": rgba, "uint16": rgba.astype(np.uint16) * 257, "float": (rgba / 255).astype(np.float32)}[
            kind.split()[0]
        ]
    assert np.abs(shown(source) - expected).max() <= 1


def test_gray_with_transparency(shown, pixels, tmp_path):
    gray_alpha = np.dstack([pixels[..., 0], np.where(np.arange(W) < 40, 0, 255) * np.ones((H, 1))]).astype(np.uint8)
    expected = np.where(gray_alpha[..., 1:] == 0, 255, gray_alpha[..., :1]).repeat(3, axis=2)
    Image.fromarray(gray_alpha, mode="LA").save(tmp_path / "la.png")
    for source in (gray_alpha, tmp_path / "la.png"):
        np.testing.assert_array_equal(shown(source), expected)


def test_palettes_with_and_without_transparency(shown, tmp_path):
    picture = Image.new("P", (W, H), 0)
    picture.putpalette([200, 10, 10, 20, 150, 30, 0, 0, 0])
    picture.paste(1, (0, 0, 40, H))
    expected = np.full((H, W, 3), (200, 10, 10), dtype=np.uint8)
    expected[:, :40] = (20, 150, 30)
    picture.save(tmp_path / "p.png")
    picture.save(tmp_path / "p.gif")
    picture.save(tmp_path / "p.tif")
    for source in (picture, tmp_path / "p.png", tmp_path / "p.gif", tmp_path / "p.tif"):
        np.testing.assert_array_equal(shown(source), expected)
    picture.save(tmp_path / "t.png", transparency=0)
    picture.save(tmp_path / "t.gif", transparency=0)
    expected[:, 40:] = 255
    for source in (tmp_path / "t.png", tmp_path / "t.gif"):
        np.testing.assert_array_equal(shown(source), expected)


def test_a_color_that_stands_for_transparency(shown, pixels, tmp_path):
    pixels[:20] = (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(1, 2, 3))
    pixels[:20] = 255
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), pixels)


def test_alpha_that_is_empty_is_left_out_and_said(shown, pixels):
    rgba = np.dstack([pixels, np.zeros((H, W), dtype=np.uint8)])
    np.testing.assert_array_equal(shown(rgba), pixels)
    with pytest.warns(UserWarning, match="alpha channel of its image is zero everywhere"):
        check_positions(np.array([[5.0, 5.0]]), SectionImage(rgba), "S")


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_inks(shown, pixels, tmp_path, ending):
    """A CMYK JPEG is stored inverted, as Adobe does."""
    cmyk = Image.fromarray(pixels).convert("CMYK")
    cmyk.save(tmp_path / f"a.{ending}", **({"quality": 98, "subsampling": 0} if ending == "jpg" else {}))
    assert np.abs(shown(tmp_path / f"a.{ending}").astype(int) - pixels).max() <= 6


@pytest.mark.parametrize("mode", ["1", "L", "YCbCr", "PA", "La", "RGBa", "RGBX", "HSV"])
def test_modes_of_pillow(shown, pixels, mode):
    base = Image.fromarray(pixels)
    steps = {"PA": ["P", "PA"], "La": ["LA", "La"], "RGBa": ["RGBA", "RGBa"]}.get(mode, [mode])
    picture = base
    for step in steps:
        picture = picture.convert(step)
    expected = np.asarray(base.convert("L").convert("RGB") if mode in ("L", "La") else base.convert(mode).convert("RGB") if mode in ("1",) else base)  # fmt: skip
    tolerance = {"PA": 60, "HSV": 4, "YCbCr": 3}.get(mode, 0)
    assert np.abs(shown(picture).astype(int) - expected).max() <= tolerance


def test_gray_is_said_once_per_section(pixels, tmp_path):
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.jpg")
    positions = pd.DataFrame({"x": [20.0, 40.0], "y": [20.0, 40.0]}, index=["a", "b"])
    for source in (tmp_path / "gray.png", tmp_path / "gray.jpg", pixels[..., :1]):
        with pytest.warns(UserWarning, match="gray") as said:
            adata = stp.io.from_tables(None, positions, source, microns_per_pixel=1.0, sample="S7")
        assert [str(item.message)[:30] for item in said] == ["section 'S7': its image is gra"]
        with pytest.warns(UserWarning, match="gray") as said:
            stp.pp.image_features(adata, image=source, tile_um=30, cache=False, progress=False)
        assert sum("gray" in str(item.message) for item in said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stp.io.from_tables(None, positions, pixels, microns_per_pixel=1.0)
