from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import stpredict as stp

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("wsidata")

Writer = Callable[..., Path]


@pytest.fixture
def write_slide(tmp_path: Path) -> Writer:
    """Writer of a TIFF of 700 × 900 px with noise, tiled and pyramidal where asked."""

    def write(name: str = "slide.tiff", *, levels: int = 3, tiled: bool = True, mpp: float | None = 0.5) -> Path:
        picture = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
        with tifffile.TiffWriter(tmp_path / name) as file:
            for level in range(levels):
                options = {"tile": (256, 256), "compression": "deflate"} if tiled else {}
                if mpp is not None:
                    options |= {"resolution": (1e4 / mpp / 2**level,) * 2, "resolutionunit": "CENTIMETER"}
                step = 2**level
                file.write(picture[::step, ::step], photometric="rgb", subfiletype=int(level > 0), **options)
        return tmp_path / name

    return write


def test_slide_knows_its_scale_and_name(write_slide: Writer) -> None:
    path = write_slide()
    slide = stp.io.open_slide(path, sample="A", patient="P")
    assert slide.attrs["slide_properties"]["mpp"] == pytest.approx(0.5)
    assert slide.attrs["slide_properties"]["shape"] == [700, 900]
    assert slide.attrs["slide_properties"]["n_level"] == 3
    assert slide.attrs["stpredict"] == {"sample": "A", "patient": "P", "source_image_path": str(path)}
    assert stp.io.open_slide(str(path)).attrs["stpredict"]["sample"] == "slide"
    assert "patient" not in stp.io.open_slide(path).attrs["stpredict"]
    assert sorted(item.name for item in path.parent.iterdir()) == ["slide.tiff"]  # nothing is written beside it


def test_missing_scale_is_an_error_unless_given(write_slide: Writer) -> None:
    path = write_slide(mpp=None)
    with pytest.raises(ValueError, match=r"µm per pixel of slide.tiff.*pass `microns_per_pixel=`"):
        stp.io.open_slide(path)
    assert stp.io.open_slide(path, 0.25).attrs["slide_properties"]["mpp"] == 0.25
    with pytest.raises(ValueError, match="positive"):
        stp.io.open_slide(path, -1)


def test_resolution_of_a_screen_is_no_scale(write_slide: Writer) -> None:
    path = write_slide(mpp=25_400 / 72)
    with pytest.raises(ValueError, match="found none in its file"):
        stp.io.open_slide(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert stp.io.open_slide(path, 0.5).properties.mpp == 0.5


def test_given_scale_wins_and_a_difference_is_said(write_slide: Writer) -> None:
    path = write_slide()
    with pytest.warns(UserWarning, match="records 0.5 µm per pixel, 0.25 was given"):
        slide = stp.io.open_slide(path, 0.25)
    assert slide.attrs["slide_properties"]["mpp"] == slide.properties.mpp == 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert stp.io.open_slide(path, 0.51).properties.mpp == 0.51


def test_plain_tiff_is_read_by_tiffslide(write_slide: Writer) -> None:
    slide = stp.io.open_slide(write_slide(levels=1, tiled=False), 0.5)
    assert slide.reader.name == "tiffslide"
    expected = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)[100:140, 200:260]
    np.testing.assert_array_equal(slide.reader.get_region(200, 100, 60, 40), expected)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        stp.io.open_slide(tmp_path / "none.svs")
    with pytest.raises(FileNotFoundError, match="a folder"):
        stp.io.open_slide(tmp_path)


@pytest.mark.parametrize("name", ["slide.svs", "slide.tiff", "slide.mrxs", "slide"])
@pytest.mark.parametrize("content", [b"", b"not a slide" * 100, bytes(range(256)) * 40, b"II*\0" + b"\xff" * 500])
def test_what_is_no_slide_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be opened \(tried openslide: .*; tiffslide: "):
        stp.io.open_slide(tmp_path / name, 0.5)


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("share", [0.9999, 0.99, 0.9, 0.8, 0.5, 0.1, 0.001])
def test_truncated_slides_are_refused(write_slide: Writer, share: float, tiled: bool) -> None:
    path = write_slide(tiled=tiled)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"truncated|cannot be opened"):
        stp.io.open_slide(path, 0.5)


def test_missing_directory_of_a_level_is_noticed(write_slide: Writer) -> None:
    path = write_slide(tiled=False)
    with tifffile.TiffFile(path) as file:
        start = file.pages[2].offset  # what comes before is whole, and libraries open it as two levels
    path.write_bytes(path.read_bytes()[:start])
    with pytest.raises(ValueError, match="2 of its images are there and the next is missing"):
        stp.io.open_slide(path, 0.5)


@pytest.mark.parametrize(
    ("tag", "value", "found"),
    [
        ("ImageWidth", 2**31, "its header says 2,147,483,648 x 700 px, and it has 12 of"),
        ("ImageLength", 70_000, "its header says 900 x 70,000 px"),
        ("TileWidth", 10**9, "tiles of 1,000,000,000 x 256 px"),  # openslide would end the process
    ],
)
def test_absurd_sizes_are_refused_before_they_are_used(write_slide: Writer, tag: str, value: int, found: str) -> None:
    path = write_slide(levels=1)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[tag].overwrite(value, dtype="I")
    with pytest.raises(ValueError, match=rf"expected a complete slide at .*slide\.tiff; found .*{found}"):
        stp.io.open_slide(path, 0.5)


def test_tags_of_another_kind_are_damage(write_slide: Writer) -> None:
    path = write_slide(levels=1)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["TileWidth"].overwrite((256, 256), dtype="I")
    with pytest.raises(ValueError, match=r"expected a .*slide at .*slide\.tiff; found"):
        stp.io.open_slide(path, 0.5)


def test_damaged_tiles_are_noticed(write_slide: Writer) -> None:
    path = write_slide()
    with tifffile.TiffFile(path) as file:
        last = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    content = bytearray(path.read_bytes())
    content[last[0] : last[0] + last[1]] = b"\xff" * last[1]
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="level 0 cannot be read"):
        stp.io.open_slide(path)
