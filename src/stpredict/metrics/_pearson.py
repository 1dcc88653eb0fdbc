"""Pearson correlation per gene."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import center, check_pair, dense, gene_blocks


def pearson(truth: Any, predicted: Any) -> np.ndarray:
    """Correlate truth and prediction of each gene over observations.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    predicted
        Predicted expression of the same shape, in any unit.

    Returns
    -------
    Pearson's r per gene (n_genes,), float64. NaN where truth or prediction is constant (up to rounding of its dtype),
    where a value is NaN, and with fewer than two observations: leave these out of means, and count them.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import pearson
    >>> pearson(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]))
    array([1.])
    """
    truth, predicted = check_pair(truth, predicted)
    result = np.full(truth.shape[1], np.nan)
    if truth.shape[0] < 2:
        return result
    for genes in gene_blocks(truth.shape):
        x, xx = center(dense(truth, genes), truth.dtype)
        y, yy = center(dense(predicted, genes), predicted.dtype)
        result[genes] = correlation(x, xx, y, yy)
    return result


def correlation(x: np.ndarray, xx: np.ndarray, y: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """Correlate centered columns (n, g) with sums of squares (g,); NaN where one of these is zero."""
    result = np.full(len(xx), np.nan)
    scale = np.sqrt(xx) * np.sqrt(yy)
    np.divide(np.einsum("ij,ij->j", x, y), scale, out=result, where=scale > 0)
    return np.clip(result, -1.0, 1.0)


def pearson_p(r: np.ndarray | float, n: np.ndarray | int) -> np.ndarray:
    """Compute two-sided p-values of correlations against zero, with n - 2 degrees of freedom.

    Neighboring spots resemble each other, so they are fewer than `n` independent observations and these p-values are
    too small for spots of one section. They hold for independent observations, such as patients.

    Parameters
    ----------
    r
        Correlations, of any shape.
    n
        Number of observations, one for all or one per correlation.

    Returns
    -------
    p-values in the shape of `r`; NaN where `r` is NaN or `n` is below 3.

    Raises
    ------
    ValueError
        When the shapes of `r` and `n` do not broadcast.

    Examples
    --------
    >>> from stpredict.metrics import pearson_p
    >>> float(pearson_p(0.5, 27).round(4))
    0.0079
    """
    from scipy.special import stdtr

    r, degrees = np.asarray(r, dtype=float), np.asarray(n, dtype=float) - 2
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(r) * np.sqrt(degrees / ((1 - r) * (1 + r)))
        p = 2 * stdtr(degrees, -t)
    return np.where(degrees >= 1, p, np.nan)
