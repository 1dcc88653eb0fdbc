"""Pixels of every kind as RGB of 8 bits: gray, with alpha, of 16 bits, floats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MAX_CHANNELS = 4
_ROUNDING = 0.01  # floats that were resampled may leave 0–1 by little
_DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras deliver


def check_array(shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise unless an array holds an image: gray, or channels last, of a depth that is known."""
    if len(shape) not in (2, 3):
        raise ValueError(f"expected an image of shape (height, width, 3); found {shape}")
    if 0 in shape:
        raise ValueError(f"expected an image with pixels; found an empty one of shape {shape}; pass another")
    if len(shape) == 3 and not 1 <= shape[2] <= MAX_CHANNELS:
        call = "pass three of its channels as red, green and blue"
        if 1 <= shape[0] <= MAX_CHANNELS:
            call = "channels come first: pass np.moveaxis(image, 0, -1)"
        raise ValueError(f"expected an image of shape (height, width, 3); found {shape}; {call}")
    if not (dtype.kind == "u" and dtype.itemsize in (1, 2)) and dtype.kind != "f":
        raise TypeError(f"expected an image of uint8, uint16 or floats in 0–1; found {dtype}")


@dataclass(frozen=True)
class Depth:
    """How bright the values of a picture are at most.

    Attributes
    ----------
    bits
        Bits of the colors, as far as they are used: a camera of 12 bits stores them in 16.
    alpha
        Bits of the last channel where it says how opaque a pixel is; 0 without such a channel.
    empty_alpha
        Whether that channel is zero everywhere, and says nothing.
    """

    bits: int = 8
    alpha: int = 0
    empty_alpha: bool = False

    def __or__(self, other: Depth) -> Depth:
        """Depth of two pictures together."""
        return Depth(max(self.bits, other.bits), max(self.alpha, other.alpha), self.empty_alpha and other.empty_alpha)


def depth_is_known(dtype: np.dtype, n_channels: int) -> bool:
    """Whether pixels can be converted without looking at the whole picture."""
    return dtype.itemsize == 1 and n_channels in (1, 3)


def measure(bands: Iterable[np.ndarray], name: str = "") -> Depth:
    """Depth of a picture from all its pixels.

    Parameters
    ----------
    bands
        Parts of the picture, (h, w) or (h, w, c).
    name
        What the picture is, for messages.
    """
    low, high, alpha, has_alpha, dtype = np.inf, -np.inf, 0.0, False, np.dtype(np.uint8)
    for band in bands:
        dtype, has_alpha = band.dtype, band.ndim == 3 and band.shape[2] in (2, 4)
        colors = band[..., :-1] if has_alpha else band
        # Not `min` of two numbers: it would pass over NaN.
        low, high = np.minimum(low, colors.min()), np.maximum(high, colors.max())
        if has_alpha:
            alpha = np.maximum(alpha, band[..., -1].max())
    if dtype.kind == "f":
        limits = ((low, high), (0.0, alpha))
        for least, most in limits:
            if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):
                raise ValueError(
                    f"expected an image of uint8, uint16 or floats in 0–1; found floats from {least:g} to {most:g}"
                    f"{f' ({name})' if name else ''}; scale them, or pass uint8"
                )
    return Depth(_bits(dtype, high), _bits(dtype, alpha) if has_alpha else 0, bool(has_alpha and alpha == 0))


def _bits(dtype: np.dtype, highest: float) -> int:
    if dtype.itemsize == 1 or dtype.kind == "f":
        return 8
    return next(bits for bits in _DEPTHS if highest < 2**bits)


def to_rgb(values: np.ndarray, depth: Depth) -> np.ndarray:
    """RGB uint8 (h, w, 3) from gray, gray with alpha, RGB or RGBA; transparent pixels are white, as glass is.

    Parameters
    ----------
    values
        (h, w) or (h, w, c) of uint8, uint16 or floats in 0–1.
    depth
        Depth of the picture that they are part of.
    """
    if values.ndim == 2:
        values = values[:, :, None]
    n_channels = values.shape[2]
    has_alpha = n_channels in (2, 4)
    colors = _to_uint8(values[..., :-1] if has_alpha else values, depth.bits)
    if has_alpha and not depth.empty_alpha:
        colors = _over_white(colors, _to_uint8(values[..., -1:], depth.alpha))
    return np.repeat(colors, 3, axis=2) if colors.shape[2] == 1 else colors


def _to_uint8(values: np.ndarray, bits: int) -> np.ndarray:
    if values.dtype.kind == "f":
        return np.clip(np.round(values * 255), 0, 255).astype(np.uint8)
    if values.dtype.itemsize == 1:
        return values
    # A slide is measured on its coarsest level; single pixels may be brighter than their averages.
    return np.minimum(values >> (bits - 8), 255).astype(np.uint8)


def _over_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    if alpha.min() == 255:
        return colors
    opaque = alpha.astype(np.uint16)
    return ((colors * opaque + (255 - opaque) * np.uint16(255) + np.uint16(127)) // np.uint16(255)).astype(np.uint8)
