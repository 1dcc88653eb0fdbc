"""Share of the deviance of counts that predicted rates explain, beyond a constant proportion."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import gene_blocks, seen
from stpredict.metrics._pearson_residuals import proportions_of
from stpredict.metrics._rates import leveled


def deviance_explained(
    counts: Any, rates: Any, depth: np.ndarray, *, theta: float = np.inf, level: bool = True
) -> np.ndarray:
    r"""Compute the share of the deviance of each gene's counts that rates explain, with the depth as offset.

    .. math:: D^2 = 1 - \frac{\sum_i d(x_i, n_i \lambda_i)}{\sum_i d(x_i, n_i p)}

    with the deviance :math:`d` of the Poisson or the negative binomial distribution, the depth :math:`n_i`, the predicted
    rate :math:`\lambda_i` and the proportion :math:`p` of the gene over all observations. Depth explains nothing: it is
    given to both sides. 0 is a constant, 1 a perfect prediction of every count, which nobody reaches
    (:func:`stpredict.metrics.deviance_ceiling` says how much there is to explain), and below 0 the map is wrong, or bolder
    than it can know.

    Parameters
    ----------
    counts
        Raw counts `(n, G)` of observations of one section, dense or sparse.
    rates
        Predicted rates `(n, G)`, in counts per count, at least 0.
    depth
        Total counts `(n,)` of each observation over all genes; observations of depth 0 add nothing.
    theta
        Inverse dispersion of the negative binomial distribution; infinity for Poisson.
    level
        Whether to bring the rates of each gene to its proportion over all observations, as the constant is, so that the
        map alone counts and not the difference between patients. No rate is then more than 10 times lower or higher than
        that proportion.

    Returns
    -------
    Share per gene `(G,)`, float64, at most 1. NaN for genes without counts, and where a rate is NaN.

    Raises
    ------
    ValueError
        When the shapes differ.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> depth, rate = rng.uniform(50, 500, 300), rng.uniform(0.01, 0.1, (300, 1))
    >>> counts = rng.poisson(depth[:, None] * rate)
    >>> found = [stp.metrics.deviance_explained(counts, r, depth) for r in (rate, 0 * rate + 1)]
    >>> np.round(found, 2).ravel().tolist()
    [0.76, 0.0]
    """
    depth = _depths(counts, depth)
    if counts.shape != rates.shape:
        raise ValueError(f"expected rates of shape {counts.shape}; found {rates.shape}")
    result = np.full(counts.shape[1], np.nan)
    for genes in gene_blocks(counts.shape):
        x, rate = seen(counts, genes), seen(rates, genes)
        share = proportions_of(x, depth)
        if level:
            rate = leveled(rate, share, depth)
        with np.errstate(divide="ignore", invalid="ignore"):
            null = _deviance(x, np.outer(share, depth).T, theta)
            left = _deviance(x, depth[:, None] * rate, theta)
            result[genes] = np.where(share > 0, 1 - left / null, np.nan)
    return result


def deviance_ceiling(counts: Any, depth: np.ndarray) -> np.ndarray:
    r"""Estimate the share of the deviance of each gene that the true rates would explain, given the counting noise.

    What true rates explain of Poisson counts is :math:`2 \sum_i n_i p \, h`, where :math:`h` depends on how the rates vary
    beside their mean. The squared coefficient of variation :math:`v` of the rates is estimated without bias, as a Poisson
    count has its mean for variance; for rates of a gamma distribution, with the digamma function :math:`\psi`,

    .. math:: v = \frac{\sum_i (x_i - n_i p)^2 - x_i}{\sum_i (n_i p)^2}, \qquad h = \psi(1 + 1 / v) + \log v \approx v / 2.

    Rates that are either high or low explain somewhat more than that, and rates with a long tail less.

    Parameters
    ----------
    counts
        Raw counts `(n, G)` of observations of one section, dense or sparse.
    depth
        Total counts `(n,)` of each observation over all genes.

    Returns
    -------
    Share per gene `(G,)`; genes without signal scatter around 0. NaN for genes without counts.

    Raises
    ------
    ValueError
        When the shapes differ.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> depth, rate = rng.uniform(50, 500, 300), rng.uniform(0.01, 0.1, (300, 1))
    >>> stp.metrics.deviance_ceiling(rng.poisson(depth[:, None] * rate), depth).round(1).tolist()
    [0.7]
    """
    depth = _depths(counts, depth)
    result = np.full(counts.shape[1], np.nan)
    for genes in gene_blocks(counts.shape, copies=2):
        x = seen(counts, genes)
        mean = np.outer(proportions_of(x, depth), depth).T
        null, squares = _deviance(x, mean, np.inf), (mean**2).sum(axis=0)
        variation = np.divide(((x - mean) ** 2 - x).sum(axis=0), squares, out=np.zeros(len(null)), where=squares > 0)
        explained = 2 * mean.sum(axis=0) * _information(variation)
        result[genes] = np.divide(explained, null, out=np.full(len(null), np.nan), where=null > 0)
    return np.minimum(result, 1.0)


def _depths(counts: Any, depth: np.ndarray) -> np.ndarray:
    depth = np.asarray(depth, dtype=np.float64).ravel()
    if depth.shape != counts.shape[:1] or not np.isfinite(depth).all():
        raise ValueError(f"expected a finite depth for each of {counts.shape[0]} observations; found {depth.shape}")
    return depth


def _deviance(x: np.ndarray, mean: np.ndarray, theta: float) -> np.ndarray:
    """Deviance of each gene (G,): that of its counts (n, G) from expectations; infinite where one of 0 has a count."""
    seen = x.T > 0  # counts of zero have no logarithm, and most are zero
    with np.errstate(divide="ignore", invalid="ignore"):
        count = x.T[seen]
        term = count * np.log(count / mean.T[seen])
        total = np.bincount(np.repeat(np.arange(len(seen)), seen.sum(axis=1)), term, len(seen))
        if np.isinf(theta):
            return 2 * (total - (x - mean).sum(axis=0))
        return 2 * (total - ((x + theta) * np.log((x + theta) / (mean + theta))).sum(axis=0))


def _information(variation: np.ndarray) -> np.ndarray:
    """Mean of `y log y` for gamma variables of mean 1 and this squared coefficient of variation; of none, half of it."""
    from scipy.special import digamma

    large = np.maximum(variation, 1e-4)
    return np.where(variation > 1e-4, digamma(1 + 1 / large) + np.log(large), variation / 2)
