"""Rows of arrays in files: read when they are asked for, and kept nowhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.core._settings import settings


class FileRows:
    """Rows of a dense array (n, …) in a file.

    A memory map that stays open counts towards the memory of the process with every page that was touched; here the file is
    mapped for the time of one read. It is pickled by its path.

    Parameters
    ----------
    path
        File with the values, row by row.
    dtype, shape
        Type and shape of the array.
    offset
        Bytes before the first value.
    """

    def __init__(self, path: str | Path, dtype: Any, shape: Sequence[int], offset: int = 0) -> None:
        self.path, self.dtype, self.shape, self.offset = str(path), np.dtype(dtype), tuple(shape), offset

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: Any) -> np.ndarray:
        if not np.prod(self.shape):
            return np.empty(self.shape, dtype=self.dtype)[index]
        return np.array(np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[index])

    def fingerprint(self) -> str:
        """Digest of the values, the same as that of the array in memory."""
        return fingerprint_of(self)


class FileSparseRows:
    """Rows of a sparse matrix (n, d) whose values and columns are in files; where each row begins is in memory."""

    def __init__(self, data: FileRows, columns: FileRows, starts: np.ndarray, shape: tuple[int, int]) -> None:
        self.data, self.columns, self.starts, self.shape, self.dtype = data, columns, starts, shape, data.dtype

    ndim = 2

    @property
    def size(self) -> int:
        """Number of values, the zeros among them."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        from scipy.sparse import csr_matrix

        if isinstance(index, slice) and index.step in {None, 1}:
            first, last, _ = index.indices(len(self))
            last = max(first, last)
            here = slice(int(self.starts[first]), int(self.starts[last]))
            starts = self.starts[first : last + 1] - self.starts[first]
            return csr_matrix((self.data[here], self.columns[here], starts), shape=(last - first, self.shape[1]))
        rows = np.arange(len(self))[index]
        sizes = self.starts[rows + 1] - self.starts[rows]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        at = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], sizes)
        return csr_matrix((self.data[at], self.columns[at], starts), shape=(len(rows), self.shape[1]))


class FileTable:
    """Some rows and columns of matrices in files, side by side, as float32; standardized within groups of rows if so wanted.

    Nothing is read but the rows that are asked for.

    Parameters
    ----------
    parts
        Matrices (m, d_i).
    rows
        (n,) rows of them.
    columns
        Columns of the only matrix; all of all when `None`.
    group, mean, scale
        (n,) group of each row, and what is taken off the values of a group and what they are divided by, (n_groups, d).
    blank
        (n,) bool, rows that are NaN.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(
        self,
        parts: Sequence[FileRows | FileSparseRows],
        rows: np.ndarray,
        columns: np.ndarray | None = None,
        *,
        group: np.ndarray | None = None,
        mean: np.ndarray | None = None,
        scale: np.ndarray | None = None,
        blank: np.ndarray | None = None,
    ) -> None:
        self.parts, self.rows, self.columns = list(parts), rows, columns
        self.group, self.mean, self.scale, self.blank = group, mean, scale, blank
        width = sum(part.shape[1] for part in parts)
        self.shape = (len(rows), width if columns is None else len(columns))
        self._every = columns is not None and len(columns) == width and bool((columns == np.arange(width)).all())

    @property
    def size(self) -> int:
        """Number of values."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = self.rows[index]
        found: list[Any] = [part[rows] for part in self.parts]
        if self.columns is not None and not self._every:
            found = [values[:, self.columns] for values in found]
        found = [values.toarray() if hasattr(values, "toarray") else values for values in found]
        values = (found[0] if len(found) == 1 else np.concatenate(found, axis=1)).astype(np.float32, copy=False)
        if self.group is not None and self.mean is not None and self.scale is not None:
            group = self.group[index]
            values = ((values - self.mean[group]) / self.scale[group]).astype(np.float32)
        if self.blank is not None and self.blank[index].any():
            values = np.where(self.blank[index][:, None], np.float32(np.nan), values)
        return values

    def columns_of(self, which: Any) -> FileTable:
        """The same rows with some of the columns of the only matrix, as they are there; nothing is read."""
        columns = np.arange(self.shape[1]) if self.columns is None else self.columns
        return FileTable(self.parts, self.rows, columns[which], blank=self.blank)

    def fingerprint(self) -> str:
        """Digest of the values, the same as that of the array in memory."""
        return fingerprint_of(self)


class FileBags:
    """Bags of tokens (n, n_tokens, d) of some rows of an array in a file, as float32; read when they are asked for.

    Parameters
    ----------
    source
        Array (m, n_tokens, d).
    rows
        (n,) rows of it.
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, source: FileRows, rows: np.ndarray) -> None:
        self.source, self.rows = source, rows
        self.shape = (len(rows), *source.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.source[self.rows[index]].astype(np.float32, copy=False)

    def take(self, index: np.ndarray) -> FileBags:
        """Some of the rows; nothing is read."""
        return FileBags(self.source, self.rows[index])

    def tokens(self, kept: np.ndarray) -> FileTable:
        """The tokens that a mask (n, n_tokens) keeps, one row each."""
        _, n_tokens, width = self.source.shape
        flat = FileRows(self.source.path, self.source.dtype, (len(self.source) * n_tokens, width), self.source.offset)
        bag, token = np.nonzero(kept)
        return FileTable([flat], self.rows[bag] * n_tokens + token)

    def fingerprint(self) -> str:
        """Digest of the values, the same as that of the array in memory."""
        return fingerprint_of(self)


def fingerprint_of(values: Any) -> str:
    """Digest of the type, the shape and the values of rows, block by block."""
    digest = hashlib.sha256(f"{values.dtype.str}{tuple(values.shape)}".encode())
    for rows in row_blocks(len(values), row_bytes(values)):
        digest.update(np.ascontiguousarray(values[rows]).tobytes())
    return digest.hexdigest()


def in_files(values: Any) -> bool:
    """Whether rows are read from files when they are asked for, each time anew and at the price of reading them."""
    kinds = FileRows | FileSparseRows | FileTable | FileBags
    return isinstance(values, kinds) or bool(getattr(values, "in_file", False))


def rows_in_file(values: Any) -> FileRows | FileSparseRows | None:
    """The rows of a whole array or sparse matrix that is a memory map, without the map; `None` for anything else."""
    from scipy import sparse

    if isinstance(values, FileRows | FileSparseRows):
        return values
    if sparse.issparse(values) and values.format == "csr":
        data, columns = rows_in_file(_mapped(values.data)), rows_in_file(_mapped(values.indices))
        if isinstance(data, FileRows) and isinstance(columns, FileRows):
            return FileSparseRows(data, columns, np.asarray(values.indptr), values.shape)
        return None
    if not isinstance(values, np.memmap) or values.filename is None or values.base is None or not values.ndim:
        return None
    # A part of a map has the name of the file as well, and begins elsewhere.
    whole = values.flags.c_contiguous and values.offset + values.nbytes == Path(values.filename).stat().st_size
    return FileRows(values.filename, values.dtype, values.shape, values.offset) if whole else None


def columns_of(values: Any, which: Any) -> Any:
    """Some columns of an array, or a view of those of rows that are read when they are asked for."""
    return values.columns_of(which) if hasattr(values, "columns_of") else values[:, which]


def read_rows(values: Any, index: Any) -> Any:
    """Some rows of a matrix, dense or sparse; those of a memory map are read from its file, and no page of the map stays."""
    source = rows_in_file(values)
    return (values if source is None else source)[index]


def _mapped(values: Any) -> Any:
    """The memory map that an array is a view of, where it is all of it."""
    found = values
    while isinstance(found, np.ndarray) and not isinstance(found, np.memmap):
        found = found.base
    return found if isinstance(found, np.memmap) and found.shape == values.shape else values


def row_bytes(values: Any) -> int:
    """Bytes of a row of an array or a row source."""
    return int(np.prod(values.shape[1:], dtype=np.int64)) * values.dtype.itemsize


def row_blocks(n: int, n_bytes: int, copies: int = 4) -> Iterator[slice]:
    """Slices of n rows of so many bytes: `copies` of a block are within `stpredict.settings.memory`."""
    size = max(1, int(settings.memory) // max(1, n_bytes * copies))
    yield from (slice(start, min(start + size, n)) for start in range(0, n, size))


def by_blocks(function: Callable[[Any], np.ndarray], values: Any, index: np.ndarray | None = None) -> np.ndarray:
    """What a function gives of rows (n, …), block by block where they are in a file, at once elsewhere.

    The function must say of each row what does not depend on others.
    """
    source: Any = values if isinstance(values, FileTable) else rows_in_file(values)
    if source is None:
        return function(values if index is None else values[index])
    n = len(source) if index is None else len(index)
    blocks = row_blocks(n, row_bytes(source), copies=8) if n else [slice(0, 0)]
    return np.concatenate([function(source[rows if index is None else index[rows]]) for rows in blocks])


def write_rows(path: Path, blocks: Iterable[np.ndarray], dtype: Any, shape: Sequence[int]) -> None:
    """Write blocks of rows one after the other as a `.npy` file of this shape."""
    dtype = np.dtype(dtype)
    with path.open("wb") as file:
        described = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": tuple(map(int, shape)),
        }
        np.lib.format.write_array_header_2_0(file, described)
        n_written = 0
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).tobytes())
            n_written += len(block)
    if n_written != shape[0]:
        raise ValueError(f"expected {shape[0]} rows to write to {path.name}; found {n_written}")
