"""Errors per gene: root mean square, mean square, mean absolute."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import check_matrix, check_pair, dense, gene_blocks, seen


def rmse(truth: Any, predicted: Any) -> np.ndarray:
    """Compute the root-mean-square error of each gene over observations.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    predicted
        Predicted expression of the same shape and unit.

    Returns
    -------
    Error per gene (n_genes,), float64, in the unit of the truth; NaN without observations or with a NaN among them.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import rmse
    >>> rmse(np.array([[0.0], [0.0]]), np.array([[3.0], [3.0]]))
    array([3.])
    """
    truth, predicted = check_pair(truth, predicted)
    result = np.full(truth.shape[1], np.nan)
    if truth.shape[0] == 0:
        return result
    for genes in gene_blocks(truth.shape):
        error = dense(truth, genes)
        error -= seen(predicted, genes)
        result[genes] = np.sqrt(np.einsum("ij,ij->j", error, error) / len(error))
    return result


def rmse_iqr(truth: Any, predicted: Any) -> np.ndarray:
    """Divide the root-mean-square error of each gene by the interquartile range of its truth.

    The divisor is Q3 - Q1 + 1e-5, as in :cite:p:`pizurica2024`. Where the middle half of the truth is equal (often
    zero) the range is 0 and the value undefined: compare such genes by :func:`rmse`.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    predicted
        Predicted expression of the same shape and unit.

    Returns
    -------
    Normalized error per gene (n_genes,), float64, without unit; NaN as in :func:`rmse`, and where the range is 0.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import rmse_iqr
    >>> truth = np.arange(5.0)[:, None]
    >>> rmse_iqr(truth, truth + 2).round(3)
    array([1.])
    """
    truth, predicted = check_pair(truth, predicted)
    return rmse(truth, predicted) / middle_half(truth)


def middle_half(values: Any) -> np.ndarray:
    """What :func:`rmse_iqr` divides by (n_genes,): the interquartile range and 1e-5, NaN where the range is 0."""
    values = check_matrix(values, "truth")
    result = np.full(values.shape[1], np.nan)
    if values.shape[0] == 0:
        return result
    for genes in gene_blocks(values.shape):
        low, high = np.percentile(seen(values, genes), [25, 75], axis=0)
        result[genes] = np.where(high > low, high - low + 1e-5, np.nan)
    return result


def mse(truth: Any, predicted: Any) -> np.ndarray:
    """Compute the mean squared error of each gene over observations.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    predicted
        Predicted expression of the same shape and unit.

    Returns
    -------
    Error per gene (n_genes,), float64, in the square of the unit of the truth; NaN as in :func:`rmse`.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import mse
    >>> mse(np.array([[0.0], [0.0]]), np.array([[3.0], [-3.0]]))
    array([9.])
    """
    return rmse(truth, predicted) ** 2


def mae(truth: Any, predicted: Any) -> np.ndarray:
    """Compute the mean absolute error of each gene over observations.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    predicted
        Predicted expression of the same shape and unit.

    Returns
    -------
    Error per gene (n_genes,), float64, in the unit of the truth; NaN as in :func:`rmse`.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import mae
    >>> mae(np.array([[0.0], [0.0]]), np.array([[3.0], [-3.0]]))
    array([3.])
    """
    truth, predicted = check_pair(truth, predicted)
    result = np.full(truth.shape[1], np.nan)
    if truth.shape[0] == 0:
        return result
    for genes in gene_blocks(truth.shape):
        result[genes] = np.abs(seen(truth, genes) - seen(predicted, genes)).mean(axis=0)
    return result
