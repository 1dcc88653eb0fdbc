"""The published correlation of dense maps, over tissue and empty slide together."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import center, check_pair, dense, gene_blocks
from stpredict.metrics._pearson import correlation


def pearson_with_background(truth: Any, predicted: Any, n_background: int) -> np.ndarray:
    r"""Correlate whole maps, whose cells without tissue count as zero in truth and prediction.

    Dense maps were published with this score :cite:p:`li2026`, which mostly says where the tissue is: a prediction that
    is the same on every spot reaches :math:`r = \sqrt{(1 - p) m^2 / ((1 - p) m^2 + s^2)}`, with p the share of cells on
    tissue, m and s the mean and standard deviation of the gene on tissue. With p = 0.6, m = 4.5 and s = 0.7 that is
    0.97. Use it to compare with published numbers, beside the score of a constant prediction, and use
    :func:`stpredict.metrics.pearson` to judge a model.

    Parameters
    ----------
    truth
        Measured expression on tissue (n_obs, n_genes), dense or sparse.
    predicted
        Predicted expression of the same shape.
    n_background
        Number of cells of the map without tissue.

    Returns
    -------
    Correlation per gene (n_genes,), float64, over n_obs + `n_background` cells. NaN where truth or prediction is the
    same everywhere, background included, or a value is NaN. A prediction that is constant on tissue has a value here.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional, or the number of cells is negative or no whole number.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import pearson, pearson_with_background
    >>> truth, constant = np.array([[4.0], [5.0], [4.5]]), np.ones((3, 1))
    >>> pearson(truth, constant), pearson_with_background(truth, constant, n_background=2).round(2)
    (array([nan]), array([0.99]))
    """
    truth, predicted = check_pair(truth, predicted)
    if n_background != int(n_background) or n_background < 0:
        raise ValueError(f"expected the number of cells without tissue, 0 or more; found {n_background!r}")
    n = truth.shape[0]
    result = np.full(truth.shape[1], np.nan)
    if n == 0:
        return result
    # Between tissue and background there are as many squares as two groups with these means have.
    between = n * (int(n_background) / (n + int(n_background)))
    for genes in gene_blocks(truth.shape):
        x, y = dense(truth, genes), dense(predicted, genes)
        mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
        x, xx = center(x, truth.dtype)
        y, yy = center(y, predicted.dtype)
        if between:
            root = np.sqrt(between)
            x, y = np.vstack([x, root * mean_x]), np.vstack([y, root * mean_y])
            xx, yy = xx + between * mean_x**2, yy + between * mean_y**2
        result[genes] = correlation(x, xx, y, yy)
    return result
