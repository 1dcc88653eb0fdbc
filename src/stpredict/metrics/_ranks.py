"""Ranks of many columns at once."""

from __future__ import annotations

import numpy as np

_HELD = 2**18  # values (2 MB) that are sorted and reordered at a time, near the cache


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on of each column (n, g), tied values sharing their mean; a column with NaN has none.

    Equal to `scipy.stats.rankdata` along the first axis; columns are sorted where they lie one after the other.
    """
    n, g = values.shape
    found = np.empty((g, n))
    width = max(1, _HELD // max(n, 1))
    for start in range(0, g if n else 0, width):
        _rank_rows(np.ascontiguousarray(values[:, start : start + width].T), found[start : start + width])
    return found.T


def _rank_rows(rows: np.ndarray, found: np.ndarray) -> None:
    """Write the ranks of each row (g, n)."""
    g, n = rows.shape
    at = (np.argsort(rows, axis=1) + np.arange(g)[:, None] * n).ravel()
    ordered = rows.ravel()[at]
    first = np.empty(g * n, dtype=bool)  # of those it is tied with
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    first[::n] = True
    flat = found.reshape(-1)  # a view: rows of `found` lie one after the other
    if first.all():
        flat[at] = np.tile(np.arange(1.0, n + 1), g)
    else:
        start = np.flatnonzero(first)
        count = np.diff(start, append=g * n)
        flat[at] = np.repeat(start % n + (count + 1) / 2, count)
    if rows.dtype.kind == "f":
        found[np.isnan(ordered[n - 1 :: n])] = np.nan  # NaN is sorted to the end
