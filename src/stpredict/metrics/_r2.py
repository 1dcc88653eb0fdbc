"""Share of the variance that a prediction explains."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.core._constant import constant
from stpredict.metrics._pairs import check_pair, dense, gene_blocks


def r2(truth: Any, predicted: Any) -> np.ndarray:
    """Compute the share of the variance of each column that a prediction explains, level and scale included.

    One minus the squared error over that of the mean of the truth: 1 for a perfect prediction, 0 for the mean of these
    observations, and negative for what is worse than that.

    Parameters
    ----------
    truth
        Measured values (n_obs, n_genes), dense or sparse.
    predicted
        Predicted values of the same shape and unit.

    Returns
    -------
    Coefficient of determination per column (n_genes,), float64; NaN for constant columns, and with a NaN among them.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import r2
    >>> r2(np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [1.0]]))
    array([0.5])
    """
    truth, predicted = check_pair(truth, predicted)
    result = np.full(truth.shape[1], np.nan)
    if truth.shape[0] < 2:
        return result
    for genes in gene_blocks(truth.shape):
        values = dense(truth, genes)
        error = dense(predicted, genes) - values
        mean, std = values.mean(axis=0), values.std(axis=0)
        total = np.where(constant(std, mean), np.nan, len(values) * std**2)
        result[genes] = 1 - np.einsum("ij,ij->j", error, error) / total
    return result
