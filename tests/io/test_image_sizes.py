"""Arrays of every layout, and files of every size: read, or refused before memory is taken."""

from __future__ import annotations

import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from stpredict.io._image import SectionImage

H, W = 60, 90


def test_layouts_of_arrays(shown, pixels):
    import dask.array as da
    import xarray as xr
    import zarr

    stored = zarr.create_array(store={}, data=pixels)
    for source in (pixels.tolist(), da.from_array(pixels, chunks=(20, 20, 3)), np.asfortranarray(pixels), stored):
        if isinstance(source, list):
            source = np.array(source, dtype=np.uint8)
        np.testing.assert_array_equal(shown(source), pixels)
    for dims in (("y", "x", "c"), ("c", "y", "x"), ("x", "c", "y")):
        array = xr.DataArray(pixels, dims=("y", "x", "c")).transpose(*dims)
        np.testing.assert_array_equal(shown(array), pixels)
    swapped = xr.DataArray(pixels[..., ::-1], dims=("y", "x", "c"), coords={"c": ["b", "g", "r"]})
    np.testing.assert_array_equal(shown(swapped), pixels)
    np.testing.assert_array_equal(shown(xr.DataArray(pixels[..., 0], dims=("y", "x"))), pixels[..., :1].repeat(3, 2))


def test_arrays_without_a_picture_are_refused(pixels):
    import xarray as xr

    for empty in (pixels[:0], pixels[:, :0], pixels[..., :0]):
        with pytest.raises(ValueError, match="empty one of shape"):
            SectionImage(empty)
    with pytest.raises(ValueError, match="dimensions c, y, x"):
        SectionImage(xr.DataArray(pixels[None], dims=("z", "y", "x", "c")))
    named = xr.DataArray(
        np.dstack([pixels, pixels[..., 0]]), dims=("y", "x", "c"), coords={"c": ["DAPI", "a", "b", "c"]}
    )
    with pytest.raises(ValueError, match="channels r, g, b"):
        SectionImage(named)


def test_a_single_pixel(tmp_path):
    Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "a.png")
    for source in (np.array([[[10, 20, 30]]], dtype=np.uint8), tmp_path / "a.png"):
        image = SectionImage(source)
        assert image.thumbnail(100)[0].tolist() == image.band(0, 1).tolist() == [[[10, 20, 30]]]
        assert next(iter(image.windows(np.array([[0.5, 0.5]]), 3)))[1].shape == (1, 3, 3, 3)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "tiled.tif", "bmp", "gif"])
def test_the_limit_of_pillow_is_neither_obeyed_nor_changed(shown, pixels, tmp_path, monkeypatch, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "tiled.tif":
        tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="jpeg")
    else:
        Image.fromarray(pixels).save(path)
    expected = shown(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = shown(path)
        assert len(next(iter(SectionImage(path).windows(np.array([[30.0, 30.0]]), 40)))[1]) == 1
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert Image.MAX_IMAGE_PIXELS == 100


def test_threads_do_not_disturb_each_other(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    limit, seen = Image.MAX_IMAGE_PIXELS, set()

    def work() -> None:
        for _ in range(20):
            SectionImage(tmp_path / "a.png").band(0, H)
            seen.add(Image.MAX_IMAGE_PIXELS)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {limit}


@pytest.mark.parametrize("side", [25_000, 40_000, 100_000])
def test_sizes_that_cannot_be_true_are_refused_before_memory_is_taken(tmp_path, side):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", min(side, 65_000), min(side, 65_000))
    (tmp_path / "a.jpg").write_bytes(data)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[0].tags[tag].overwrite(min(side, 65_000))
    for name in ("a.png", "a.jpg", "a.tif"):
        with pytest.raises(ValueError, match=r"truncated or damaged|at most 2,147,483,648 pixels"):
            SectionImage(tmp_path / name)


def test_a_large_even_picture_is_no_damage(tmp_path):
    Image.new("L", (9000, 6000), 255).save(tmp_path / "a.png")
    Image.new("L", (9000, 6000), 255).save(tmp_path / "a.jpg", progressive=True, optimize=True)
    for name in ("a.png", "a.jpg"):
        assert SectionImage(tmp_path / name).width == 9000


def test_a_hidden_file_is_named_as_such(tmp_path):
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07 attributes")
    with pytest.raises(ValueError, match="hidden file of a Mac"):
        SectionImage(tmp_path / "._a.png")
    with pytest.raises(ValueError, match="pass the path of a file"):
        SectionImage(tmp_path)
