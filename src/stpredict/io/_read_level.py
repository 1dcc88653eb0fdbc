"""A region of one level of a slide."""

from __future__ import annotations

from typing import Any

import numpy as np


def read_level(reader: Any, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """Read a region within the bounds of a level, in its pixels, as uint8 (height, width, 3)."""
    scale = float(reader.properties.level_downsample[level])
    try:
        region = reader.get_region(round(x * scale), round(y * scale), width, height, level=level)
    except Exception as error:
        # Each reader library raises exceptions of its own for a damaged file.
        raise ValueError(
            f"expected a complete slide at {reader.file}; found that {width} x {height} px at ({x}, {y}) of level "
            f"{level} cannot be read ({type(error).__name__}: {error}); copy the file again, or convert it to 8-bit RGB"
        ) from error
    return np.ascontiguousarray(region[..., :3])
