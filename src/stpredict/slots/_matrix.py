"""Matrices as other programs leave them: the only place that turns what a slot holds into numbers to compute with."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.core._moments import row_slices

_LARGEST = float(np.finfo(np.float32).max)


def numeric_matrix(values: Any, what: str) -> Any:
    """Return a matrix of numbers, dense or sparse as it is, that numpy and scipy can compute with.

    Numbers that are stored as objects become float64, half precision becomes float32; frames become arrays. Anything
    else is returned as it is. `what` is the name of the matrix in messages.

    Raises `TypeError` for text and complex numbers.
    """
    if hasattr(values, "iloc"):
        return _of_frame(values, what)
    if isinstance(values, np.matrix):
        values = np.asarray(values)
    dtype = getattr(values, "dtype", None)
    if dtype is None or dtype.kind in "iub" or (dtype.kind == "f" and dtype.itemsize >= 4):
        return values
    if dtype.kind == "f":
        return values.astype(np.float32)
    if dtype.kind != "O":
        raise TypeError(f"expected numbers in {what}; found {_kind(dtype)}; convert them first")
    from scipy import sparse

    if not sparse.issparse(values):
        return _floats(values, what)
    # scipy knows no sparse matrices of objects, and refuses to convert those that somebody made all the same.
    if values.format not in {"csr", "csc"}:
        raise TypeError(f"expected numbers in {what}; found a sparse matrix of objects; convert it to float32 first")
    make = sparse.csr_matrix if values.format == "csr" else sparse.csc_matrix
    return make((_floats(values.data, what), values.indices, values.indptr), shape=values.shape)


def dense_matrix(values: Any, what: str) -> np.ndarray:
    """Return rows of numbers (n, d) as an array, from an array, a sparse matrix or a DataFrame of any types."""
    values = numeric_matrix(values, what)
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)


def check_float32(values: Any, what: str) -> None:
    """Raise `ValueError` when a number is too large for single precision, which would make infinity of it."""
    stored = values.data if hasattr(values, "tocsr") else np.asarray(values)
    if stored.size and stored.dtype.kind == "f" and stored.dtype.itemsize > 4:
        largest = max(float(np.fmax.reduce(stored, axis=None)), -float(np.fmin.reduce(stored, axis=None)))
        if _LARGEST < largest < np.inf:
            raise ValueError(f"expected {what} of at most {_LARGEST:.2g} (float32); found {largest:.3g}; correct them")


def single_precision(values: Any, what: str) -> np.ndarray:
    """Return numbers of any number of axes as a dense float32 array.

    Raises `TypeError` for what are no numbers, and `ValueError` for numbers that float32 cannot hold.
    """
    values = dense_matrix(values, what)
    check_float32(values, what)
    return values.astype(np.float32, copy=False)


def part_of(matrix: Any, rows: np.ndarray, columns: np.ndarray, what: str) -> np.ndarray:
    """Some rows and columns of a matrix, dense or sparse, as a float32 array that is not to be written to.

    Where they are all of a float32 array it is that one; otherwise a new one, and nothing else of its size is made. Raises
    `ValueError` for numbers that float32 cannot hold.
    """
    if (
        isinstance(matrix, np.ndarray)
        and matrix.dtype == np.float32
        and _in_order(rows, len(matrix))
        and _in_order(columns, matrix.shape[1])
    ):
        return matrix
    if getattr(matrix, "format", None) == "csc":  # whose rows are found by going through all of it
        matrix, columns = matrix[:, columns].tocsr(), np.arange(len(columns))
    found = np.empty((len(rows), len(columns)), dtype=np.float32)
    for part in row_slices(len(rows)):
        found[part] = single_precision(matrix[rows[part]][:, columns], what)
    return found


def _in_order(index: np.ndarray, n: int) -> bool:
    return len(index) == n and bool((index == np.arange(n)).all())


def _of_frame(frame: Any, what: str) -> np.ndarray:
    import pandas as pd

    if isinstance(frame, pd.Series):
        frame = frame.to_frame()
    bad = [
        name
        for name, dtype in frame.dtypes.items()
        if isinstance(dtype, pd.CategoricalDtype) or dtype.kind not in "iufbO"
    ]
    bad += [name for name, dtype in frame.dtypes.items() if isinstance(dtype, pd.StringDtype)]
    if bad:
        raise TypeError(
            f"expected numbers in {what}; found {frame[bad[0]].dtype} in the column {bad[0]!r}; convert or drop it first"
        )
    plain = {dtype for dtype in frame.dtypes if isinstance(dtype, np.dtype) and dtype.kind != "O"}
    if len(plain) == frame.dtypes.nunique() or frame.shape[1] == 0:
        return np.asarray(numeric_matrix(frame.to_numpy(), what))
    return _floats(frame.to_numpy(dtype=object, na_value=np.nan), what)


def _floats(values: Any, what: str) -> np.ndarray:
    """Objects as float64, missing ones as NaN; text is an error, also where it looks like a number."""
    flat = np.asarray(values, dtype=object)
    strange = next((item for item in flat.ravel() if not _is_number(item)), None)
    if strange is not None:
        raise TypeError(
            f"expected numbers in {what}; found objects such as {strange!r} ({type(strange).__name__}); convert them first"
        )
    result = np.full(flat.shape, np.nan)
    known = ~_missing(flat)
    result[known] = flat[known].astype(np.float64)
    return result


def _is_number(item: Any) -> bool:
    return item is None or isinstance(item, bool | int | float | np.bool_ | np.integer | np.floating) or _is_na(item)


def _missing(flat: np.ndarray) -> np.ndarray:
    return np.array([item is None or _is_na(item) for item in flat.ravel()], dtype=bool).reshape(flat.shape)


def _is_na(item: Any) -> bool:
    import pandas as pd

    return item is pd.NA


def _kind(dtype: Any) -> str:
    return "complex numbers" if dtype.kind == "c" else "text" if dtype.kind in "US" else str(dtype)
