"""Rows of different lengths, such as the nuclei around each observation, behind one index."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


class Ragged:
    """Values of all rows one after the other, and where those of each row begin; an index takes slices of them.

    Parameters
    ----------
    values
        (m, …).
    size
        (n,) number of values of each row.
    start
        (n,) where those of each row begin; one row after the other when `None`. Rows may share values.

    Raises
    ------
    ValueError
        When a row ends beyond the values.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> rows = stp.training.Ragged(np.array([10, 11, 20, 21, 22]), size=np.array([2, 0, 3]))
    >>> rows[[2, 1]].tolist(), rows[[0]].tolist()
    ([20, 21, 22], [10, 11])
    """

    def __init__(self, values: np.ndarray, size: np.ndarray, start: np.ndarray | None = None) -> None:
        self.values = values
        self.size = np.asarray(size, dtype=np.int64)
        self.start = np.cumsum(self.size) - self.size if start is None else start
        if (self.size < 0).any() or (self.start + self.size > len(values)).any():
            raise ValueError(
                f"expected rows within {len(values)} values; found one that ends at {int((self.start + self.size).max())}"
            )

    def __len__(self) -> int:
        return len(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, and the shape of a value."""
        return len(self), *self.values.shape[1:]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Values of some rows (k, …), one row after the other."""
        return self.values[self.places(index)]

    def places(self, index: Any = slice(None)) -> np.ndarray:
        """Where the values of some rows are (k,) int64."""
        start, size = self.start[index], self.size[index]
        return np.arange(size.sum()) + np.repeat(start - (np.cumsum(size) - size), size)

    def take(self, index: np.ndarray) -> Ragged:
        """Some rows, which share the values of these."""
        return Ragged(self.values, self.size[index], self.start[index])

    def fingerprint(self) -> str:
        """Digest of the values of every row, wherever they lie."""
        values = np.ascontiguousarray(self[slice(None)])
        digest = hashlib.sha256(f"ragged {values.dtype.str}{values.shape[1:]}".encode())
        digest.update(np.ascontiguousarray(self.size).tobytes() + values.tobytes())
        return digest.hexdigest()
