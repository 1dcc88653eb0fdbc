"""Observations on an array lattice as images, all genes at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import check_matrix

_SPARSEST = 16  # cells of a grid per observation


def rasterize(values: Any, array_row: np.ndarray, array_col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place observations on the grid of their array lattice.

    On a hexagonal lattice in Visium's convention (row and column of a spot are both even or both odd) two neighbors in
    a row are two columns apart; the grid column is then `array_col // 2`, which leaves no gaps.

    Parameters
    ----------
    values
        Expression (n_obs, n_genes), dense or sparse.
    array_row
        Lattice row of each observation (n_obs,), whole numbers.
    array_col
        Lattice column of each observation (n_obs,), whole numbers.

    Returns
    -------
    Images (n_rows, n_cols, n_genes) in the dtype of the values (float64 for integers), 0 where there is no
    observation, and the tissue mask (n_rows, n_cols).

    Raises
    ------
    ValueError
        When lengths differ, a position is not a whole number, or two observations share a position.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import rasterize
    >>> image, tissue = rasterize(np.array([[1.0], [2.0]]), np.array([0, 1]), np.array([0, 3]))
    >>> image.shape, int(tissue.sum())
    ((2, 2, 1), 2)
    """
    values = check_matrix(values, "values")
    row, col, shape = lattice(array_row, array_col, values.shape[0])
    dense = values.toarray() if hasattr(values, "toarray") else values
    image = np.zeros((*shape, values.shape[1]), dtype=dense.dtype if dense.dtype.kind == "f" else np.float64)
    image[row, col] = dense
    tissue = np.zeros(shape, dtype=bool)
    tissue[row, col] = True
    return image, tissue


def lattice(array_row: Any, array_col: Any, n_obs: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Grid row and column of each observation, from 0, and the shape of the grid."""
    row, col = _whole(array_row, "array_row", n_obs), _whole(array_col, "array_col", n_obs)
    if n_obs == 0:
        return row, col, (0, 0)
    if np.ptp((row + col) % 2) == 0:
        col = col // 2
    row, col = row - row.min(), col - col.min()
    shape = (int(row.max()) + 1, int(col.max()) + 1)
    at = row * shape[1] + col
    # A count of every cell of a grid is quick; positions far apart would make it large.
    n_cells = shape[0] * shape[1]
    taken = np.count_nonzero(np.bincount(at)) if n_cells <= _SPARSEST * n_obs else len(np.unique(at))
    repeated = n_obs - int(taken)
    if repeated:
        raise ValueError(
            f"expected one observation per lattice position; found {repeated} that share one; "
            "score one section at a time"
        )
    return row, col, shape


def _whole(values: Any, name: str, n_obs: int) -> np.ndarray:
    position = np.asarray(values)
    if position.shape != (n_obs,):
        raise ValueError(f"expected {name} of shape ({n_obs},); found {position.shape}")
    if position.dtype.kind not in "iuf" or not np.all(np.isfinite(position)) or np.any(position != np.round(position)):
        raise ValueError(
            f"expected whole numbers in {name}; found {position.dtype} with other values; round them first"
        )
    return position.astype(np.int64)
