"""Truth and prediction as matching float64 blocks of genes, so that memory does not grow with the number of genes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_BLOCK = 2**17  # values per block: 1 MB, which stays in the cache, and in memory that is used again


def check_matrix(values: Any, name: str) -> Any:
    """Return a matrix (n_obs, n_genes): sparse as compressed columns, anything else as an array."""
    from scipy import sparse

    matrix = values.tocsc() if sparse.issparse(values) else np.asarray(values)
    if matrix.ndim != 2:
        raise ValueError(
            f"expected {name} of shape (n_obs, n_genes); found shape {matrix.shape}; pass one gene as values[:, None]"
        )
    if matrix.dtype.kind not in "fiub":
        raise TypeError(f"expected {name} to hold real numbers; found {matrix.dtype}")
    return matrix


def check_pair(truth: Any, predicted: Any) -> tuple[Any, Any]:
    """Return two matrices of one shape, or say how they differ."""
    truth, predicted = check_matrix(truth, "truth"), check_matrix(predicted, "predicted")
    if truth.shape != predicted.shape:
        raise ValueError(
            f"expected truth and predicted of one shape; found {truth.shape} and {predicted.shape}; "
            "take the same observations and genes of both, for example with stp.get.predicted"
        )
    return truth, predicted


def gene_blocks(shape: tuple[int, int], copies: int = 1) -> Iterator[slice]:
    """Slices of genes; `copies` is how many values are held per value of a block."""
    width = max(1, _BLOCK // max(1, shape[0] * copies))
    for start in range(0, shape[1], width):
        yield slice(start, min(start + width, shape[1]))


def dense(matrix: Any, genes: slice) -> np.ndarray:
    """Columns of a matrix as a new float64 array, each in one piece: of many observations a block has few genes."""
    block = matrix[:, genes]
    return np.array(block.toarray() if hasattr(block, "toarray") else block, dtype=np.float64, order="F")


def seen(matrix: Any, genes: slice) -> np.ndarray:
    """The same to be read only: without a copy of what is float64 with columns in one piece."""
    block = matrix[:, genes]
    return np.asarray(block.toarray() if hasattr(block, "toarray") else block, dtype=np.float64, order="F")


def center(block: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Subtract column means in place; return the block and its sums of squares, 0 for numerically constant columns.

    A constant column of floats may differ in its last bits (a mean computed in another order, say). Its variation is
    noise of the arithmetic, so a standard deviation below ten roundings of the largest value counts as zero.
    """
    eps = np.finfo(dtype).eps if dtype.kind == "f" else np.finfo(np.float64).eps
    largest = np.maximum(block.max(axis=0), -block.min(axis=0))
    block -= block.mean(axis=0)
    squares = np.einsum("ij,ij->j", block, block)
    squares[squares <= len(block) * (10 * eps * largest) ** 2] = 0.0
    return block, squares
