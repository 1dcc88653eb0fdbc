"""Quantiles of samples, and how often intervals hold what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stpredict.metrics._pairs import check_pair, dense, gene_blocks


def sample_quantiles(samples: Any, levels: Sequence[float]) -> np.ndarray:
    """Quantiles of the samples of each observation and gene.

    A level q is the value at rank q (n_samples + 1), between two samples where that is no whole number: one more sample lies
    below it with probability q. Levels below `1 / (n_samples + 1)`, or as close to 1, are the smallest or the largest sample.

    Parameters
    ----------
    samples
        Samples (n_obs, n_samples, n_genes).
    levels
        Levels between 0 and 1.

    Returns
    -------
    Quantiles (n_obs, n_levels, n_genes), in the dtype of the samples.

    Raises
    ------
    ValueError
        When the samples have no three axes, or a level is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import sample_quantiles
    >>> sample_quantiles(np.arange(1.0, 20.0).reshape(1, 19, 1), [0.05, 0.5])[0, :, 0]
    array([ 1., 10.])
    """
    samples, wanted = np.asarray(samples), np.asarray(levels, dtype=np.float64)
    if samples.ndim != 3 or samples.shape[1] == 0:
        raise ValueError(f"expected samples of shape (n_obs, n_samples, n_genes); found {samples.shape}")
    if wanted.ndim != 1 or not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(f"expected levels between 0 and 1; found {levels!r}")
    found = np.quantile(samples, wanted, axis=1, method="weibull")
    return np.moveaxis(found, 0, 1).astype(samples.dtype if samples.dtype.kind == "f" else np.float64)


def interval_coverage(truth: Any, lower: Any, upper: Any) -> np.ndarray:
    """Share of the measured values that lie within their interval, per gene.

    Intervals of level .9 should hold 90 %: less says that a model is too sure of itself, more that its intervals are wider
    than they need to be.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    lower, upper
        Bounds of the same shape and unit, which count as inside.

    Returns
    -------
    Share per gene (n_genes,), float64; NaN where a value or a bound is NaN.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import interval_coverage
    >>> truth = np.array([[0.0], [1.0], [2.0], [5.0]])
    >>> interval_coverage(truth, np.full((4, 1), 1.0), np.full((4, 1), 5.0))
    array([0.75])
    """
    (truth, lower), (_, upper) = check_pair(truth, lower), check_pair(truth, upper)
    result = np.full(truth.shape[1], np.nan)
    if not truth.shape[0]:
        return result
    for genes in gene_blocks(truth.shape, copies=3):
        y, low, high = dense(truth, genes), dense(lower, genes), dense(upper, genes)
        known = np.isfinite(y).all(axis=0) & ~np.isnan(low + high).any(axis=0)
        result[genes] = np.where(known, ((y >= low) & (y <= high)).mean(axis=0), np.nan)
    return result
