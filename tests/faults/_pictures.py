"""Kinds of pictures: images of sections, thumbnails, whole slides, folders of tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

import stpredict as stp
from stpredict.datasets._pyramid import write_pyramid
from stpredict.io._section_image import SectionImage

from ._kind import Answer, Kind
from ._tables import content, picture

WARM = ("torch", "wsidata")


def _save(folder: Path, name: str, mode: str = "RGB", **options: object) -> None:
    image = Image.fromarray(picture(61, 83))
    image = image.quantize(32) if mode == "P" else image.convert(mode)
    image.save(folder / name, **options)


def _write_jpeg(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _save(folder, "plain.jpg", quality=90)
    _save(folder, "turned.jpg", exif=exif)
    _save(folder, "progressive.jpg", progressive=True)
    _save(folder, "gray.jpg", "L")
    _save(folder, "ink.jpg", "CMYK")


def _write_png(folder: Path) -> None:
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        _save(folder, f"{mode}.png", mode)
    Image.fromarray(picture(61, 83)[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")


def _write_tiff(folder: Path) -> None:
    image = picture(61, 83)
    _save(folder, "plain.tif")
    _save(folder, "packed.tif", compression="tiff_lzw")
    _save(folder, "jpeg.tif", compression="jpeg")
    tifffile.imwrite(folder / "deep.tif", image.astype(np.uint16) * 200, photometric="rgb", compression="zlib")
    tifffile.imwrite(folder / "planes.ome.tif", np.moveaxis(image, -1, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(folder / "tiles.tif", image, photometric="rgb", tile=(32, 32), compression="deflate")
    tifffile.imwrite(folder / "floats.tif", (image / 255).astype(np.float32), photometric="rgb")


def _read_pictures(folder: Path) -> Answer:
    """Pixels and thumbnails, as the readers of sections take them; only files that were damaged differ."""
    found = {}
    for path in sorted(folder.iterdir()):
        image = SectionImage(path)
        found[path.name] = {"pixels": image.band(0, image.height), "thumbnail": SectionImage(path).thumbnail(20)[0]}
        image.remarks()
    return found


def _write_slide(folder: Path) -> None:
    write_pyramid(folder / "slide.svs", picture(700, 900), 0.5)


def _read_slide(folder: Path) -> Answer:
    """A slide opened, its tissue found and tiles laid, and their pixels read."""
    from stpredict.io._slide import slide_reader, slide_thumbnail, windows_of

    slide = stp.io.open_slide(folder / "slide.svs", sample="S")
    with slide_reader(slide) as reader:
        mpp = float(slide.attrs["slide_properties"]["mpp"])
        height, width = reader.properties.shape
        centers = np.stack(np.meshgrid(np.arange(60, width, 120), np.arange(60, height, 120)), axis=-1).reshape(-1, 2)
        windows = windows_of(reader, centers[:64], 120.0, 60)
        pixels = np.zeros((len(windows.corner), windows.side, windows.side, 3), np.uint8)
        for rows, values in windows.read(reader, windows.order()):
            pixels[rows] = values
        thumbnail, _ = slide_thumbnail(reader, mpp, 4 * mpp, 500)
        found = {"mpp": mpp, "shape": [height, width], "pixels": pixels, "thumbnail": thumbnail}
    reader.detach_reader()
    return found


def _write_tiles(folder: Path) -> None:
    image = picture(128, 128)
    for name, ending in (("S1", "png"), ("S2", "jpg"), ("S3", "tif")):
        (folder / name).mkdir()
        for y in (0, 64):
            for x in (0, 64):
                Image.fromarray(image[y : y + 64, x : x + 64]).save(folder / name / f"x{x}_y{y}.{ending}")


def _read_tiles(folder: Path) -> Answer:
    return content(stp.io.from_tiles(folder, microns_per_pixel=0.5, progress=False))


KINDS = (
    Kind("JPEG", _write_jpeg, _read_pictures, ("*",), 130),
    Kind("PNG", _write_png, _read_pictures, ("*",), 110),
    Kind("TIFF", _write_tiff, _read_pictures, ("*",), 140),
    Kind("SVS", _write_slide, _read_slide, ("*",), 60),
    Kind("tiles", _write_tiles, _read_tiles, ("*/*",), 40),
)
