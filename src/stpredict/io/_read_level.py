"""A region of one level of a slide."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from stpredict.io._pixels import Depth, check_array, depth_is_known, measure, to_rgb

_PIECE_PX = 4096  # side of what openslide paints at once
_STRIP_PX = 2**24  # pixels that are looked at together for the depth of a slide
_depths: WeakKeyDictionary[Any, Depth] = WeakKeyDictionary()


def read_level(reader: Any, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """Read a region within the bounds of a level, in its pixels, as uint8 (height, width, 3).

    What was not scanned is transparent and becomes white; gray and values of 16 bits become RGB of 8 bits.
    """
    scale = float(reader.properties.level_downsample[level])
    try:
        region = _region(reader, level, round(x * scale), round(y * scale), width, height)
        check_array(region.shape, region.dtype)
        return np.ascontiguousarray(to_rgb(region, _depth(reader, region)))
    except Exception as error:
        # Each reader library raises exceptions of its own for a damaged file.
        raise ValueError(
            f"expected a complete slide at {reader.file}; found that {width} x {height} px at ({x}, {y}) of level "
            f"{level} cannot be read ({type(error).__name__}: {error}); copy the file again, or convert it to 8-bit RGB"
        ) from error


def _region(reader: Any, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """Pixels as the library has them, with alpha where it tells what was scanned; `get_region` would leave it out."""
    if reader.name == "tiffslide":
        return np.asarray(reader.reader.read_region((x, y), level, (width, height), as_array=True))
    if reader.name != "openslide":
        return np.asarray(reader.get_region(x, y, width, height, level=level))
    if max(width, height) <= _PIECE_PX:
        return np.asarray(reader.reader.read_region((x, y), level, (width, height)))
    # As openslide itself does it, with the offsets that it computes; at once, it would hold several copies.
    scale = reader.reader.level_downsamples[level]
    out = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, _PIECE_PX):
        for left in range(0, width, _PIECE_PX):
            size = (min(_PIECE_PX, width - left), min(_PIECE_PX, height - top))
            piece = reader.reader.read_region((int(x + left * scale), int(y + top * scale)), level, size)
            out[top : top + size[1], left : left + size[0]] = to_rgb(np.asarray(piece), Depth(8, 8))
    return out


def _depth(reader: Any, region: np.ndarray) -> Depth:
    """Depth of a slide: that of its coarsest level, looked at once; an empty region does not make its alpha empty."""
    if region.dtype == np.uint8 or depth_is_known(region.dtype, 1 if region.ndim == 2 else region.shape[2]):
        return Depth(8, 8)
    if reader not in _depths:
        level = len(reader.properties.level_shape) - 1
        height, width = reader.properties.level_shape[level]
        scale = float(reader.properties.level_downsample[level])
        step = max(1, _STRIP_PX // width)
        strips = (
            _region(reader, level, 0, round(top * scale), width, min(step, height - top))
            for top in range(0, height, step)
        )
        _depths[reader] = measure(strips, "the slide")
    return _depths[reader]
