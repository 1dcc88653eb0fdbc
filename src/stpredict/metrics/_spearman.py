"""Spearman correlation per gene."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import center, check_pair, dense, gene_blocks
from stpredict.metrics._pearson import correlation
from stpredict.metrics._ranks import ranks


def spearman(truth: Any, predicted: Any) -> np.ndarray:
    """Correlate the ranks of truth and prediction of each gene over observations, ties at their average rank.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    predicted
        Predicted expression of the same shape, in any unit.

    Returns
    -------
    Spearman's rho per gene (n_genes,), float64. NaN where truth or prediction is constant (up to rounding of its
    dtype), where a value is NaN, and with fewer than two observations.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import spearman
    >>> spearman(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [10.0], [100.0]]))
    array([1.])
    """
    truth, predicted = check_pair(truth, predicted)
    result = np.full(truth.shape[1], np.nan)
    if truth.shape[0] < 2:
        return result
    for genes in gene_blocks(truth.shape, copies=2):
        x, y = dense(truth, genes), dense(predicted, genes)
        result[genes] = _of_block(x, y, ranks(x), ranks(y), truth.dtype, predicted.dtype)
    return result


def spearman_of_ranks(
    truth: np.ndarray, predicted: np.ndarray, of_truth: np.ndarray, of_predicted: np.ndarray
) -> np.ndarray:
    """The same of two matrices whose ranks are known already, all of them (n_obs, n_genes)."""
    result = np.full(truth.shape[1], np.nan)
    if len(truth) < 2:
        return result
    for genes in gene_blocks(truth.shape, copies=2):
        x, y, ranks_x, ranks_y = (dense(matrix, genes) for matrix in (truth, predicted, of_truth, of_predicted))
        result[genes] = _of_block(x, y, ranks_x, ranks_y, truth.dtype, predicted.dtype)
    return result


def _of_block(
    x: np.ndarray, y: np.ndarray, ranks_x: np.ndarray, ranks_y: np.ndarray, dtype_x: np.dtype, dtype_y: np.dtype
) -> np.ndarray:
    """Spearman's rho (g,) of values (n, g) of two dtypes and their ranks; all four are overwritten."""
    centered = []
    for values, ranked, dtype in ((x, ranks_x, dtype_x), (y, ranks_y, dtype_y)):
        ranked, squares = center(ranked, np.dtype(np.float64))
        # Ranks would turn the rounding noise of a constant column into a full signal.
        squares[center(values, dtype)[1] == 0] = 0.0
        centered += [ranked, squares]
    return correlation(*centered)
