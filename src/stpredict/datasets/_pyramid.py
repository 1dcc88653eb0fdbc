"""Pyramidal tiled TIFF files of synthetic slides."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from stpredict.core._turns import fresh_path, turn

SOFTWARE = "stpredict synthetic_slides"
_TILE_PX = 256


def check_ours(path: Path) -> None:
    """Raise `FileExistsError` when something lies at `path` that `write_pyramid` did not write."""
    import tifffile

    if not path.exists() and not path.is_symlink():
        return
    try:
        with tifffile.TiffFile(path) as file:
            software = file.pages.first.tags.valueof("Software")
    # A directory, no TIFF, or a damaged one, in whose tags anything may stand.
    except (OSError, ValueError, IndexError, KeyError, TypeError, struct.error, tifffile.TiffFileError):
        software = None
    if software != SOFTWARE:
        raise FileExistsError(
            f"expected {path} to be free or an earlier synthetic slide; found another file; choose another image_dir"
        )


def write_pyramid(path: Path, image: np.ndarray, mpp: float) -> None:
    """Write an image (height, width, 3) as a tiled pyramid with halved levels, one page each, and its µm per pixel.

    Tiles are JPEG where imagecodecs is installed, deflate otherwise. The file appears at once, when it is complete.
    """
    import tifffile
    from PIL import Image

    jpeg = find_spec("imagecodecs") is not None
    level, number = Image.fromarray(image), 0
    with turn(path):
        partial = fresh_path(path)
        try:
            with tifffile.TiffWriter(partial) as writer:
                while True:
                    per_cm = 1e4 / (mpp * 2**number)
                    writer.write(
                        np.asarray(level),
                        tile=(_TILE_PX, _TILE_PX),
                        photometric="rgb",
                        compression="jpeg" if jpeg else "adobe_deflate",
                        compressionargs={"level": 90} if jpeg else None,
                        resolution=(per_cm, per_cm),
                        resolutionunit="CENTIMETER",
                        subfiletype=int(number > 0),  # reduced image: a level of the pyramid
                        software=SOFTWARE,
                        metadata=None,
                    )
                    if max(level.size) <= _TILE_PX:
                        break
                    level, number = level.reduce(2), number + 1
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
