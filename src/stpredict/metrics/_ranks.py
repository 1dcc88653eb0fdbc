"""Ranks of many columns at once."""

from __future__ import annotations

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on of each column (n, g), tied values sharing their mean; a column with NaN has none.

    Equal to `scipy.stats.rankdata` along the first axis; columns are sorted where they lie one after the other.
    """
    n, g = values.shape
    if n == 0 or g == 0:
        return np.empty((n, g))
    columns = np.ascontiguousarray(values.T)
    at = (np.argsort(columns, axis=1) + np.arange(g)[:, None] * n).ravel()
    ordered = columns.ravel()[at]
    first = np.empty(g * n, dtype=bool)  # of those it is tied with
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    first[::n] = True
    found = np.empty(g * n)
    if first.all():
        found[at] = np.tile(np.arange(1.0, n + 1), g)
    else:
        start = np.flatnonzero(first)
        count = np.diff(start, append=g * n)
        found[at] = np.repeat(start % n + (count + 1) / 2, count)
    found = found.reshape(g, n)
    if values.dtype.kind == "f":
        found[np.isnan(ordered[n - 1 :: n])] = np.nan  # NaN is sorted to the end
    return found.T
