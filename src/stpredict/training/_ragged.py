"""Rows of different lengths, such as the nuclei around each observation, behind one index."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from stpredict.core._file_rows import in_files
from stpredict.core._moments import row_slices


class Ragged:
    """Values of all rows one after the other, and where those of each row begin; an index takes slices of them.

    Parameters
    ----------
    values
        (m, …), in memory or in a file.
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

    def __init__(self, values: Any, size: np.ndarray, start: np.ndarray | None = None) -> None:
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

    def every(self) -> Any:
        """Values of all rows (k, …), one row after the other; of values in a file, a view of them."""
        return Flat(self) if in_files(self.values) else self[slice(None)]

    def take(self, index: np.ndarray) -> Ragged:
        """Some rows, which share the values of these."""
        return Ragged(self.values, self.size[index], self.start[index])

    def fingerprint(self) -> str:
        """Digest of the values of every row, wherever they lie."""
        values = self.every()
        digest = hashlib.sha256(f"ragged {values.dtype.str}{values.shape[1:]}".encode())
        digest.update(np.ascontiguousarray(self.size).tobytes())
        for part in row_slices(len(values)):
            digest.update(np.ascontiguousarray(values[part]).tobytes())
        return digest.hexdigest()


class Flat:
    """Values of ragged rows, one row after the other, read when they are asked for."""

    def __init__(self, rows: Ragged) -> None:
        self.rows, self.end = rows, np.cumsum(rows.size)
        self.dtype = rows.values.dtype
        self.shape = (int(rows.size.sum()), *rows.values.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        if stop <= start:
            return np.empty((0, *self.shape[1:]), dtype=self.dtype)
        first, last = np.searchsorted(self.end, [start, stop - 1], side="right")
        before = start - (self.end[first] - self.rows.size[first])
        return self.rows.values[self.rows.places(slice(first, last + 1))[before : before + stop - start]]
