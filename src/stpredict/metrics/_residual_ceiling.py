"""The correlation with Pearson residuals that a perfect model would reach, given the counting noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import gene_blocks, seen
from stpredict.metrics._pearson_residuals import proportions_of

_MIN_DETECTED = 3  # observations with the gene, and observations at all, below which nothing can be said


def residual_ceiling(counts: Any, depth: np.ndarray, *, theta: float = 100.0) -> np.ndarray:
    r"""Estimate the correlation between the Pearson residuals of a gene and their noise-free values.

    The variance of a Poisson count is its mean, and the count itself estimates that without bias. With
    :math:`v_i = \mu_i + \mu_i^2 / \theta` the share of the variance of the residuals :math:`z` that is signal is

    .. math:: R^2 = 1 - \frac{\frac1n \sum_i x_i / v_i}{\mathrm{var}(z)},

    and the ceiling is its square root, with the sign kept. Nothing is drawn, and depth has no part in it: a gene with the
    same proportion everywhere has :math:`R^2` around 0. What else is said of
    :func:`stpredict.metrics.noise_ceiling` holds here too.

    Parameters
    ----------
    counts
        Raw counts `(n, G)` of observations of one section, dense or sparse.
    depth
        Total counts `(n,)` of each observation over all genes that were measured; those of 0 are left out.
    theta
        Inverse dispersion of the residuals, see :func:`stpredict.metrics.pearson_residuals`.

    Returns
    -------
    Ceiling per gene `(G,)`, between -1 and 1. NaN for genes that were seen in fewer than 3 observations.

    Raises
    ------
    ValueError
        When there is not one depth for each observation.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> rate = np.column_stack([np.repeat([0.02, 0.1], 150), np.full(300, 0.05)])
    >>> depth = rng.uniform(50, 500, 300)
    >>> ceiling = stp.metrics.residual_ceiling(rng.poisson(depth[:, None] * rate), depth)
    >>> bool(ceiling[0] > 0.8), bool(abs(ceiling[1]) < 0.4)
    (True, True)
    """
    depth = np.asarray(depth, dtype=np.float64).ravel()
    if depth.shape != counts.shape[:1]:
        raise ValueError(f"expected one depth for each of {counts.shape[0]} observations; found {depth.shape}")
    result = np.full(counts.shape[1], np.nan)
    rows = np.flatnonzero(depth > 0)
    if len(rows) < _MIN_DETECTED:
        return result
    sparse = hasattr(counts, "tocsr")
    if len(rows) < len(depth):
        counts, depth = counts.tocsr()[rows] if sparse else np.asarray(counts)[rows], depth[rows]
    counts = counts.tocsc() if sparse else np.asarray(counts)
    for genes in gene_blocks(counts.shape, copies=2):
        x = seen(counts, genes)
        mean = np.outer(proportions_of(x, depth), depth).T
        mean[mean == 0] = 1.0
        variance = mean + mean**2 / theta
        total = ((x - mean) / np.sqrt(variance)).var(axis=0, ddof=1)
        noise = (x / variance).mean(axis=0)
        signal = np.clip(1 - np.divide(noise, total, out=np.ones_like(noise), where=total > 0), -1, 1)
        ceiling = np.sign(signal) * np.sqrt(np.abs(signal))
        result[genes] = np.where((x > 0).sum(axis=0) >= _MIN_DETECTED, ceiling, np.nan)
    return result
