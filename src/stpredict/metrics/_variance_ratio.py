"""Ratio of predicted to measured variance per gene."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import center, check_pair, dense, gene_blocks


def variance_ratio(truth: Any, predicted: Any) -> np.ndarray:
    """Divide the variance of the prediction by the variance of the truth, per gene.

    Least-squares predictions are smoother than measurements: a ratio far below 1 says how much of the variation is
    missing, which a correlation does not show :cite:p:`zhu2025`.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    predicted
        Predicted expression of the same shape and unit.

    Returns
    -------
    Ratio per gene (n_genes,), float64; NaN where the truth is constant (up to rounding of its dtype) or holds a NaN.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import variance_ratio
    >>> truth = np.arange(5.0)[:, None]
    >>> variance_ratio(truth, truth / 2)
    array([0.25])
    """
    truth, predicted = check_pair(truth, predicted)
    result = np.full(truth.shape[1], np.nan)
    if truth.shape[0] < 2:
        return result
    for genes in gene_blocks(truth.shape):
        xx = center(dense(truth, genes), truth.dtype)[1]
        yy = center(dense(predicted, genes), predicted.dtype)[1]
        np.divide(yy, xx, out=result[genes], where=xx > 0)
    return result
