"""The correlation that a perfect model would reach, given the counting noise."""

from __future__ import annotations

from typing import Any

import numpy as np

_MIN_DETECTED = 3  # observations with the gene, and observations at all, below which nothing can be said
_N_DEPTHS = 24


def noise_ceiling(
    counts: Any,
    *,
    genes: np.ndarray | None = None,
    size_columns: np.ndarray | None = None,
    target_sum: float = 1e4,
    n_repeats: int = 10,
    seed: int | np.random.Generator = 0,
) -> np.ndarray:
    r"""Estimate the correlation between a gene's measurement and its noise-free value.

    The counts are split into two halves at random (binomial thinning, so that the halves are independent given
    the true expression), each half is normalized with its own size factors, and per gene the correlation
    :math:`r` of the halves across observations is averaged over the splits. From it follows the share of the
    variance of the full measurement that is signal,

    .. math:: R^2 = \frac{2 (r - d)}{1 + r},

    and the ceiling is its square root, with the sign kept.

    Parameters
    ----------
    counts
        Raw counts `(n, M)` of n observations of one section and all measured genes, dense or sparse.
    genes
        Columns of the genes asked for, as indices or a mask; all by default.
    size_columns
        Columns whose totals are the size factors, as indices or a mask; all by default.
    target_sum
        Total that the counts of every observation are scaled to before log1p.
    n_repeats
        Number of random splits to average over.
    seed
        Random seed, or generator, for the splits.

    Returns
    -------
    Ceiling of each gene `(G,)`, between -1 and 1. NaN for genes that were seen in fewer than 3 observations.

    Raises
    ------
    ValueError
        When the matrix holds negative numbers, fractions or NaN, or a parameter is not positive.
    IndexError
        When `genes` or `size_columns` name a column that does not exist.

    Notes
    -----
    - Without :math:`d` this is the Spearman-Brown formula :cite:p:`spearman1910,brown1910` for a measurement of twice
      the length; the thinning is that of :cite:t:`neufeld2024`.
    - :math:`d` is the correlation that depth alone causes. After log1p the expected value of a gene still depends on
      the depth of the observation (a single count is worth more in a shallow one), which both halves share: a gene with
      the same proportion everywhere would have halves that correlate. :math:`d` is the variance of the expected half
      for a gene of constant proportion at the depths observed, over the variance of the halves. Regressing depth out
      would remove more than that: where depth follows the tissue it also carries signal.
    - :math:`R^2` is close to unbiased. Its root is not clipped at 0, so that genes without signal average about 0
      instead of being counted as predictable. The root of a noisy number is too small on average, the more so the fewer
      the observations (the standard deviation of :math:`R^2` of weak genes is about :math:`1.7/\sqrt{n}`): in the
      simulations of `benchmarks/noise_ceiling.py` the mean over genes is too low by up to 0.04 for 1000 observations
      and by up to 0.10 for 150, while the root mean square of a panel, `sqrt(mean(ceiling * abs(ceiling)))`, is within
      0.02. Use the latter to summarize a panel, and do not divide by the ceiling of a single weak gene.
    - Only counting noise is considered. Noise that is shared by the two halves, such as diffusion of transcripts or
      differences in capture between places, counts as signal.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> rates = np.stack([np.repeat([10.0, 40.0], 100), np.full(200, 20.0), np.full(200, 500.0)], axis=1)
    >>> ceiling = noise_ceiling(rng.poisson(rates), genes=[0, 1])
    >>> bool(ceiling[0] > 0.9), bool(abs(ceiling[1]) < 0.5)
    (True, True)
    """
    from scipy import sparse

    from stpredict.core._validate import check_counts, check_positive

    target_sum = check_positive(target_sum, "target_sum")
    if n_repeats < 1:
        raise ValueError(f"expected n_repeats of at least 1; found {n_repeats}")
    if counts.ndim != 2:
        raise ValueError(f"expected counts of shape (n, genes); found {counts.shape}")
    check_counts(counts)
    n_columns = counts.shape[1]
    columns = np.arange(n_columns)[slice(None) if genes is None else np.asarray(genes)]
    in_size = np.zeros(n_columns, dtype=bool)
    in_size[slice(None) if size_columns is None else np.asarray(size_columns)] = True

    totals = np.asarray(counts[:, np.flatnonzero(in_size)].sum(axis=1, dtype=np.float64)).ravel()
    nonempty = np.flatnonzero(totals > 0)
    panel = sparse.csc_matrix(counts[:, columns])[nonempty]
    panel.eliminate_zeros()
    totals, n = totals[nonempty], len(nonempty)
    ceiling = np.full(len(columns), np.nan)
    detected = np.diff(panel.indptr) >= _MIN_DETECTED
    if n < _MIN_DETECTED or not detected.any():
        return ceiling
    panel, columns = panel[:, detected], columns[detected]

    rng = np.random.default_rng(seed)
    values = np.rint(panel.data).astype(np.int64)
    rows, of_gene = panel.indices, np.repeat(np.arange(panel.shape[1]), np.diff(panel.indptr))
    sized = in_size[columns][of_gene]
    # A gene may be asked for twice, but is only once in the size factors.
    first = np.zeros(len(columns), dtype=bool)
    first[np.unique(columns, return_index=True)[1]] = True
    sized &= first[of_gene]
    rest = np.rint(totals - np.bincount(rows[sized], values[sized], n)).astype(np.int64)
    proportion = np.asarray(panel.sum(axis=0)).ravel() / totals.sum()
    depth_variance = _depth_variance(proportion, totals / 2, target_sum)

    correlation, of_depth = np.zeros(len(columns)), np.zeros(len(columns))
    defined = np.zeros(len(columns))

    def normalized(part: np.ndarray, remainder: np.ndarray) -> np.ndarray:
        total = remainder + np.bincount(rows[sized], part[sized], n)
        scale = np.divide(target_sum, total, out=np.zeros(n), where=total > 0)
        return np.log1p(part * scale[rows])

    def gene_mean(entries: np.ndarray) -> np.ndarray:
        return np.bincount(of_gene, entries, len(columns)) / n

    for _ in range(n_repeats):
        part, part_rest = rng.binomial(values, 0.5), rng.binomial(rest, 0.5)
        first_half = normalized(part, part_rest)
        second_half = normalized(values - part, rest - part_rest)
        mean_first, mean_second = gene_mean(first_half), gene_mean(second_half)
        variance_first = gene_mean(first_half**2) - mean_first**2
        variance_second = gene_mean(second_half**2) - mean_second**2
        scale = np.sqrt(np.maximum(variance_first * variance_second, 0))
        usable = scale > 1e-12
        covariance = gene_mean(first_half * second_half) - mean_first * mean_second
        correlation[usable] += covariance[usable] / scale[usable]
        of_depth[usable] += depth_variance[usable] / scale[usable]
        defined += usable
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation, of_depth = correlation / defined, of_depth / defined
        signal = np.clip(2 * (correlation - of_depth) / (1 + correlation), -1, 1)
    ceiling[detected] = np.sign(signal) * np.sqrt(np.abs(signal))
    return ceiling


def _depth_variance(proportion: np.ndarray, depths: np.ndarray, target_sum: float) -> np.ndarray:
    """Variance over observations of the expected log1p value of genes (G,) with constant proportions."""
    low, high = depths.min(), depths.max()
    if high <= low * (1 + 1e-9):
        return np.zeros(len(proportion))
    grid = np.geomspace(low, high, _N_DEPTHS)
    place = np.interp(np.log(depths), np.log(grid), np.arange(_N_DEPTHS))
    below = np.minimum(place.astype(int), _N_DEPTHS - 2)
    share = place - below
    weights = np.bincount(below, 1 - share, _N_DEPTHS) + np.bincount(below + 1, share, _N_DEPTHS)
    weights = weights / weights.sum()
    expected = np.stack([expected_log1p(proportion * depth, target_sum / depth) for depth in grid])
    return weights @ (expected - weights @ expected) ** 2


def expected_log1p(rate: np.ndarray, scale: float) -> np.ndarray:
    r"""Expectation of `log1p(scale * c)` for Poisson counts c of the given rates (G,).

    :math:`\log(1 + x) = \int_0^\infty (1 - e^{-xt}) e^{-t} / t \, dt`, under which the Poisson expectation has a closed
    form. In `log t` the integrand is smooth, and the trapezoidal rule converges geometrically.
    """
    # Below the lower end the integrand is `rate * scale * t`; above the upper end it is `exp(-t)`.
    lower = np.log(1e-9) - np.log(max(1.0, scale * float(rate.max())))
    log_t, step = np.linspace(lower, np.log(40.0), 160, retstep=True)
    t = np.exp(log_t)
    return -np.expm1(rate[:, None] * np.expm1(-scale * t)) @ (np.exp(-t) * step)
