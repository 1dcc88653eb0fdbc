"""How image features were made, and whether two ways are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: What has to be the same for features of two objects to mean the same.
COMPARED = ("encoder", "fingerprint", "dim", "tile_um", "tile_px", "context", "stain")
#: Sizes in µm that differ by less are the same: a tile is a whole number of pixels, and the µm per pixel of a scanner
#: is rounded (128 µm at 0.5 µm per pixel are 127.744 µm on a slide of 0.499).
SAME_SIZE = 0.02


def same_size(first: float | None, second: float | None) -> bool:
    """Whether two lengths are the same but for rounding: the larger is at most 2 % above the smaller."""
    if first is None or second is None:
        return first is second
    small, large = sorted((float(first), float(second)))
    return large == small or large <= small * (1 + SAME_SIZE) * (1 + 1e-9)


def differing(first: Mapping[str, Any], second: Mapping[str, Any], names: Sequence[str] = COMPARED) -> list[str]:
    """Names of what differs between two records; lengths (`…_um`) by :func:`same_size`, all else exactly."""
    return [name for name in names if not _same(name, first.get(name), second.get(name))]


def _same(name: str, first: Any, second: Any) -> bool:
    if name == "stain":  # the numbers, wherever they were found
        return bool((first or {}).get("digest") == (second or {}).get("digest"))
    if name.endswith("_um") and all(value is None or isinstance(value, int | float) for value in (first, second)):
        return same_size(first, second)
    return bool(first == second)
