"""What a Mac or an editor leaves beside pictures is no picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import stpredict as stp
from stpredict.io._read_her2st import read_her2st

ATTRIBUTES = b"\x00\x05\x16\x07 attributes of the file, no picture"


def tile(folder: Path, name: str, color: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (color, 100, 150)).save(folder / name)


def test_tiles(tmp_path: Path) -> None:
    for number, name in enumerate(["x0_y0.png", "x64_y0.png"]):
        tile(tmp_path / ".tiles" / "P1", name, 50 * number)  # a folder above may be hidden
    root = tmp_path / ".tiles"
    (root / "P1" / "._x0_y0.png").write_bytes(ATTRIBUTES)
    (root / "._P1").write_bytes(ATTRIBUTES)
    (root / "._x7_y7.png").write_bytes(ATTRIBUTES)
    tile(root / ".thumbnails", "x0_y0.png", 1)
    tile(root / "P1", ".x128_y0.png", 2)
    tile(root / "__MACOSX", "x0_y0.png", 3)
    (root / "P1" / "x999_y0.png").mkdir()
    tiles = stp.io.from_tiles(root, microns_per_pixel=0.5, progress=False)
    assert tiles.obs_names.tolist() == ["P1_x0_y0", "P1_x64_y0"]


def test_only_hidden_tiles(tmp_path: Path) -> None:
    (tmp_path / "._x0_y0.png").write_bytes(ATTRIBUTES)
    with pytest.raises(ValueError, match="expected images"):
        stp.io.from_tiles(tmp_path, microns_per_pixel=0.5)


def test_sections(write_her2st) -> None:
    root = write_her2st(original=True)
    images = root / "data" / "ST-imgs" / "A" / "A1"
    (images / "._HE_slide.jpg").write_bytes(ATTRIBUTES)
    (images / ".HE_slide.png").write_bytes(ATTRIBUTES)
    for name in ("ST-cnts", "ST-spotfiles"):
        for path in list((root / "data" / name).iterdir()):
            path.with_name(f"._{path.name}").write_bytes(ATTRIBUTES)
    adata = read_her2st(root, ["A1"])
    assert adata.uns["spatial"]["A1"]["metadata"]["source_image_path"].endswith("A1/HE_slide.jpg")


def test_slides(tmp_path: Path) -> None:
    pytest.importorskip("wsidata")
    (tmp_path / "._slide.svs").write_bytes(ATTRIBUTES)
    with pytest.raises(ValueError, match=r"hidden file.*open 'slide.svs'"):
        stp.io.open_slide(tmp_path / "._slide.svs", 0.5)


def test_tiles_of_sixteen_bits_share_their_range(tmp_path: Path) -> None:
    """A dark tile is not made bright because it is dark."""
    import tifffile

    for folder, depth in (("deep", 4), ("plain", 0)):
        (tmp_path / folder).mkdir()
        for x, level in ((0, 250), (64, 20)):
            values = np.full((64, 64, 3), level, dtype=np.uint16 if depth else np.uint8) << depth
            tifffile.imwrite(tmp_path / folder / f"x{x}_y0.tif", values, photometric="rgb")
    deep, plain = (
        stp.io.from_tiles(tmp_path / name, microns_per_pixel=1.0, progress=False) for name in ("deep", "plain")
    )
    np.testing.assert_allclose(deep.obsm["X_color-texture"], plain.obsm["X_color-texture"], atol=1e-5)


def test_transparent_tiles_are_background_and_gray_is_said_once(tmp_path: Path) -> None:
    for x, alpha in ((0, 255), (64, 0)):
        pixels = np.full((64, 64, 4), (10, 20, 30, alpha), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"x{x}_y0.png")
    tiles = stp.io.from_tiles(tmp_path, microns_per_pixel=1.0, progress=False)
    picture = next(iter(tiles.uns["spatial"].values()))["images"]["hires"]
    assert picture[10, 10].tolist() == [10, 20, 30]
    assert picture[10, 100].tolist() == [255, 255, 255]
    for name in ("a", "b"):
        (tmp_path / "gray" / name).mkdir(parents=True)
        for x in (0, 64):
            Image.new("L", (64, 64), 100 + x).save(tmp_path / "gray" / name / f"x{x}_y0.png")
    with pytest.warns(UserWarning, match="tiles of a, b are gray") as said:
        stp.io.from_tiles(tmp_path / "gray", microns_per_pixel=1.0, progress=False)
    assert len(said) == 1
