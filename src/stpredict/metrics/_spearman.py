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
        centered = []
        for matrix in (truth, predicted):
            block = dense(matrix, genes)
            ranked, squares = center(ranks(block), np.dtype(np.float64))
            # Ranks would turn the rounding noise of a constant column into a full signal.
            squares[center(block, matrix.dtype)[1] == 0] = 0.0
            centered += [ranked, squares]
        result[genes] = correlation(*centered)
    return result
