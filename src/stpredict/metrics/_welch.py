"""Welch's t of groups of observations, for many genes and many groupings at once."""

from __future__ import annotations

import numpy as np


def welch(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Difference of means, Welch's t and two-sided p (n_draws, G) of values (n, G) by labels (n_draws, n)."""
    from scipy.special import stdtr

    values = values - values.mean(axis=0)
    squares = values**2
    mean, error, n = [], [], []
    for code in (1, 0):
        member = (labels == code).astype(np.float64)
        size = member.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            average = member @ values / size
            variance = (member @ squares - size * average**2) / (size - 1)
            error.append(np.maximum(variance, 0) / size)
        mean.append(average)
        n.append(size)
    difference, spread = mean[0] - mean[1], error[0] + error[1]
    # A constant gene has, up to rounding, no spread; neither has a group of one that a turned map left.
    tiny = 1e-24 * np.maximum(squares.mean(axis=0), np.finfo(float).tiny)
    defined = (spread > tiny) & np.isfinite(spread)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(defined, difference / np.sqrt(spread), np.nan)
        degrees = spread**2 / (error[0] ** 2 / (n[0] - 1) + error[1] ** 2 / (n[1] - 1))
    return difference, t, np.where(defined, 2 * stdtr(degrees, -np.abs(t)), np.nan)
