"""Bits, floats and planes of a picture mean what a viewer shows."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from stpredict.io._image import SectionImage, check_positions

H, W = 60, 90


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    "kind", ["array", "big-endian array", "tif", "planes.tif", "bigtiff", "png", "gray.png", "dask", "xarray"]
)
def test_bits_that_a_camera_uses(shown, pixels, tmp_path, kind, bits):
    pixels[0, 0] = 255
    deep = pixels.astype(np.uint16) << (bits - 8)
    expected = pixels
    source: object = tmp_path / "a.tif"
    if kind == "array":
        source = deep
    elif kind == "big-endian array":
        source = deep.astype(">u2")
    elif kind == "tif":
        tifffile.imwrite(source, deep, photometric="rgb", compression="deflate")
    elif kind == "planes.tif":
        tifffile.imwrite(source, np.moveaxis(deep, -1, 0), photometric="minisblack", metadata={"axes": "CYX"}, ome=True)
    elif kind == "bigtiff":
        tifffile.imwrite(source, deep, photometric="rgb", bigtiff=True, byteorder=">")
    elif kind == "gray.png":
        source, expected = tmp_path / "a.png", pixels[..., :1].repeat(3, axis=2)
        Image.fromarray(deep[..., 0]).save(source)
    elif kind == "png":
        source = tmp_path / "a.png"
        source.write_bytes(png16(deep))
    elif kind == "dask":
        import dask.array as da

        source = da.from_array(deep, chunks=(16, 32, 3))
    else:
        import xarray as xr

        source = xr.DataArray(np.moveaxis(deep, -1, 0), dims=("c", "y", "x"))
    np.testing.assert_array_equal(shown(source), expected)
    if bits < 16:
        positions = np.random.default_rng(0).uniform(5, 55, (25, 2))
        with pytest.warns(UserWarning, match=rf"end below {2**bits:,}; they are read as a range of {bits} bits"):
            check_positions(positions, SectionImage(source), "S")


def png16(values: np.ndarray) -> bytes:
    """PNG of 16 bits per channel, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_png_of_twelve_bits_with_transparency(shown, pixels, tmp_path):
    pixels[0, 0] = 255
    alpha = np.full((H, W, 1), 65535, dtype=np.uint16)
    alpha[:10] = 0
    (tmp_path / "a.png").write_bytes(png16(np.dstack([pixels.astype(np.uint16) << 4, alpha])))
    pixels[:10] = 255
    found = shown(tmp_path / "a.png")
    assert np.abs(found.astype(int) - pixels).max() <= 8  # the brightest visible value may be below the full range


def test_depth_is_that_of_the_whole_picture(pixels):
    deep = pixels.astype(np.uint16) << 8
    deep[: H // 2] = 900
    image = SectionImage(deep)
    np.testing.assert_array_equal(image.band(0, 10), np.full((10, W, 3), 3))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_arrays_and_files(shown, pixels, tmp_path, dtype):
    values = (pixels / 255).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    for source in (values, tmp_path / "a.tif"):
        assert np.abs(shown(source).astype(int) - pixels).max() <= 1
    for wrong in (values * 255, np.where(values > 0.5, np.nan, values).astype(dtype), values - 1):
        tifffile.imwrite(tmp_path / "b.tif", wrong, photometric="rgb")
        for source in (wrong, tmp_path / "b.tif"):
            with pytest.raises(ValueError, match="floats in 0–1; found floats from"):
                SectionImage(source).band(0, 5)


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "ome": True},
        {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "imagej": True},
        {"photometric": "rgb", "planarconfig": "separate"},
        {"photometric": "minisblack"},
        {"photometric": "minisblack", "bigtiff": True, "compression": "deflate", "tile": (32, 32)},
    ],
)  # fmt: skip
def test_colors_in_planes(shown, pixels, tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), **options)
    np.testing.assert_array_equal(shown(tmp_path / "a.tif"), pixels)


def test_planes_in_the_order_of_their_names(shown, pixels, tmp_path):
    planes = np.moveaxis(pixels[..., ::-1], -1, 0)
    metadata = {"axes": "CYX", "Channel": {"Name": ["Blue", "Green", "Red"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, photometric="minisblack", metadata=metadata)
    np.testing.assert_array_equal(shown(tmp_path / "a.ome.tif"), pixels)


def test_pyramids_of_planes(shown, pixels, tmp_path):
    planes = np.moveaxis(pixels, -1, 0)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(planes, photometric="minisblack", metadata={"axes": "CYX"}, subifds=1)
        file.write(planes[:, ::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(shown(tmp_path / "a.ome.tif"), pixels)


def test_thumbnails_before_and_after_the_picture(shown, pixels, tmp_path):
    small = pixels[::5, ::5]
    for name, pages in {"after": (pixels, small), "before": (small, pixels)}.items():
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as file:
            for page in pages:
                file.write(page, photometric="rgb")
        np.testing.assert_array_equal(shown(tmp_path / f"{name}.tif"), pixels)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (np.zeros((5, H, W), np.uint8), {"photometric": "minisblack", "metadata": {"axes": "ZYX"}, "ome": True}),
        (np.zeros((4, H, W), np.uint8), {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "ome": True}),
        (np.zeros((7, H, W), np.uint16), {"photometric": "minisblack"}),
        (np.zeros((2, H, W, 3), np.uint8), {"photometric": "rgb"}),
    ],
)
def test_stacks_are_refused(tmp_path, values, options):
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    with pytest.raises(ValueError, match=r"expected .*(picture|planes|channels).* found \d+ pages with axes"):
        SectionImage(tmp_path / "a.tif")


def test_png_of_gray_with_transparency_and_few_bits_is_refused(shown, pixels, tmp_path):
    deep = np.dstack([pixels[..., 0].astype(np.uint16), np.full((H, W), 65535, dtype=np.uint16)])
    (tmp_path / "full.png").write_bytes(png16(deep << np.array([8, 0], dtype=np.uint16)))
    np.testing.assert_array_equal(shown(tmp_path / "full.png")[..., 1], pixels[..., 0])
    (tmp_path / "few.png").write_bytes(png16(deep << np.array([4, 0], dtype=np.uint16)))
    with pytest.raises(ValueError, match="gray with alpha that uses fewer of 16"):
        SectionImage(tmp_path / "few.png").band(0, 5)
