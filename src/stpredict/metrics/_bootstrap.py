"""Means with bootstrap intervals over groups."""

from __future__ import annotations

from typing import Any

import numpy as np


def bootstrap_mean(
    values: Any,
    groups: Any = None,
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int | np.random.Generator = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average over groups and bound the mean by resampling whole groups :cite:p:`efron1993`.

    Values of one patient are not independent, so each group is averaged first and the groups, not the values, are
    drawn with replacement. The interval is the percentile interval; with few groups it is too narrow.

    Parameters
    ----------
    values
        One value per section, gene or observation (n,), or several columns of them (n, k). NaN are left out.
    groups
        Group of each value (n,), usually the patient. Without it every value is a group of its own.
    n_boot
        Number of resamples.
    level
        Coverage of the interval, between 0 and 1.
    seed
        Random seed, or generator, for the resampling.

    Returns
    -------
    Mean of the group means, lower and upper bound: scalars for (n,), arrays (k,) for (n, k). All are NaN without a
    defined value; the bounds are NaN with a single group, whose variation is not known.

    Raises
    ------
    ValueError
        When the lengths differ, a group is missing, or `level` or `n_boot` is out of range.

    Examples
    --------
    >>> from stpredict.metrics import bootstrap_mean
    >>> mean, low, high = bootstrap_mean([0.1, 0.3, 0.6, 0.4], ["p1", "p1", "p2", "p3"])
    >>> float(round(mean, 3)), bool(low < mean < high)
    (0.4, True)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2):
        raise ValueError(f"expected values of shape (n,) or (n, k); found {array.shape}")
    if not 0 < level < 1:
        raise ValueError(f"expected level between 0 and 1; found {level}")
    if n_boot < 1:
        raise ValueError(f"expected at least one resample; found n_boot={n_boot}")
    means = array[:, None] if array.ndim == 1 else array
    if groups is not None:
        means = _group_means(means, groups)
    defined = np.isfinite(means)
    has_value = defined.any(axis=1)
    means, counted = np.where(defined, means, 0.0)[has_value], defined[has_value].astype(np.float64)
    n_groups = counted.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = means.sum(axis=0) / n_groups
    low, high = np.full((2, means.shape[1]), np.nan)
    several = n_groups > 1
    if several.any():
        drawn = _resample(means[:, several], counted[:, several], n_boot, np.random.default_rng(seed))
        low[several], high[several] = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if array.ndim == 1:
        return mean[0], low[0], high[0]
    return mean, low, high


def _group_means(values: np.ndarray, groups: Any) -> np.ndarray:
    """Average the finite values (n, k) of each group; NaN for a group without any."""
    import pandas as pd

    codes, names = pd.factorize(np.asarray(groups))
    if codes.shape != (len(values),):
        raise ValueError(f"expected one group per value ({len(values)}); found shape {codes.shape}")
    if (codes < 0).any():
        raise ValueError(f"expected a group for every value; found {int((codes < 0).sum())} missing")
    return pd.DataFrame(values).groupby(codes).mean().to_numpy().reshape(len(names), -1)


def _resample(means: np.ndarray, counted: np.ndarray, n_boot: int, rng: np.random.Generator) -> np.ndarray:
    """Means (n_boot, k) of resampled groups; a group drawn several times counts as often."""
    n_groups = len(means)
    drawn = np.empty((n_boot, means.shape[1]))
    step = max(1, 2**22 // n_groups)
    for start in range(0, n_boot, step):
        size = min(step, n_boot - start)
        weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=size).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn[start : start + size] = (weights @ means) / (weights @ counted)
    return drawn
