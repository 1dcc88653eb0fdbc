"""Pixels that are not square: an object holds square ones, and remembers those of its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stpredict.core._validate import check_positive

SQUARE = 1.03  # ratio up to which a fit to pixels says that these are square
_AXES = ("source_microns_per_pixel_x", "source_microns_per_pixel_y")


def square_pixels(microns_per_pixel: float | Sequence[float]) -> dict[str, float]:
    """Scale factors of a section: the µm per square pixel, and those of the image along x and y where they differ.

    Square pixels are as fine as the finer side of those of the image, so that nothing is lost.

    Raises
    ------
    ValueError
        When there are neither one nor two positive numbers.
    """
    values = np.atleast_1d(np.asarray(microns_per_pixel, dtype=object))
    if values.shape == (2,) and values[0] != values[1]:
        pair = [check_positive(value, "microns_per_pixel along x and y") for value in values]
        return {"microns_per_pixel": min(pair)} | dict(zip(_AXES, pair, strict=True))
    if values.shape not in ((1,), (2,)):
        raise ValueError(f"expected microns_per_pixel as one number, or along x and y; found {microns_per_pixel!r}")
    return {"microns_per_pixel": check_positive(values[0], "microns_per_pixel")}


def source_scale(scalefactors: Mapping[str, Any]) -> tuple[float, float]:
    """Pixels of a section for each pixel of its image, along x and y."""
    if not all(name in scalefactors for name in (*_AXES, "microns_per_pixel")):
        return 1.0, 1.0
    square = check_positive(float(scalefactors["microns_per_pixel"]), "microns_per_pixel")
    x, y = (check_positive(float(scalefactors[name]), name) / square for name in _AXES)
    return x, y
