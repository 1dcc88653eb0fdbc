"""Means and standard deviations of columns, a block of rows at a time: nothing is copied to double precision whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

ROWS = 1024  # of a block


def row_slices(n: int, size: int = ROWS) -> Iterator[slice]:
    """Slices of at most `size` of n rows, in order."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def columnwise(values: np.ndarray) -> np.ndarray:
    """Values (n, d) float64, each column in one piece; the same array where it is so.

    Rows are turned a block at a time: every value would else be fetched from memory by itself.
    """
    if values.dtype == np.float64 and values.flags.f_contiguous:
        return values
    found = np.empty(values.shape, order="F")
    for part in row_slices(len(values)):
        found[part] = values[part]
    return found


def column_moments(values: Any, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) float64 of columns (n, d), of some of the rows where they are named.

    Parameters
    ----------
    values
        An array, or anything else that gives rows.
    rows
        (m,) numbers of rows.
    """
    n = len(values) if rows is None else len(rows)

    def blocks() -> Iterator[np.ndarray]:
        for part in row_slices(n):
            yield np.array(values[part if rows is None else rows[part]], dtype=np.float64)

    mean = sum(block.sum(axis=0) for block in blocks()) / np.float64(n)
    variance = np.zeros_like(mean)
    for block in blocks():
        block -= mean
        variance += np.einsum("ij,ij->j", block, block)
    variance /= np.float64(n)
    return np.asarray(mean), np.sqrt(variance)
