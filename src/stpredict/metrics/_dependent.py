"""What tests of two correlations with a common variable share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from stpredict.core._validate import check_choice

Alternative = Literal["greater", "less", "two-sided"]
_IMPOSSIBLE = -1e-6  # determinant of the correlation matrix; what rounding of single precision cannot explain
_ALIKE = 1e-7  # difference of two correlations that rounding of r12 near 1 can make


def read_triple(r1: Any, r2: Any, r12: Any, n: Any, alternative: str) -> tuple[np.ndarray, ...]:
    """Broadcast the three correlations and `n`, float64; NaN where no data can have such correlations."""
    check_choice(alternative, ("greater", "less", "two-sided"), "alternative")
    first, second, between, size = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (r1, r2, r12, n)))
    half, mean = (first - second) / 2, (first + second) / 2
    determinant = (1 - between) * (1 + between) - 2 * mean**2 * (1 - between) - 2 * half**2 * (1 + between)
    within = (np.abs(first) <= 1) & (np.abs(second) <= 1) & (np.abs(between) <= 1)
    possible = within & (determinant >= _IMPOSSIBLE) & (size > 3)
    return tuple(np.where(possible, values, np.nan) for values in (first, second, between, size))


def divide(difference: np.ndarray, error: np.ndarray, r1: np.ndarray, r2: np.ndarray) -> np.ndarray:
    """Difference over its standard error; without an error 0 for equal correlations, and infinite for others."""
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = difference / error
    return np.where((r1 == r2) | ((error == 0) & (np.abs(r1 - r2) <= _ALIKE)), 0.0, statistic)


def tail(statistic: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray], alternative: str) -> np.ndarray:
    """Probability of a statistic as far out, of a distribution that is symmetric about 0."""
    if alternative == "two-sided":
        return 2 * cdf(-np.abs(statistic))
    return cdf(-statistic if alternative == "greater" else statistic)
