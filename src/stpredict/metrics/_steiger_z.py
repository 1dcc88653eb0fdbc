"""Steiger's test of two correlations that share a variable."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._dependent import Alternative, divide, read_triple, tail


def steiger_z(
    r1: Any, r2: Any, r12: Any, n: Any, *, alternative: Alternative = "greater"
) -> tuple[np.ndarray, np.ndarray]:
    r"""Test whether one of two predictions correlates better with the truth, on Fisher's scale :cite:p:`steiger1980`.

    Steiger's modification of the test of :cite:t:`dunn1969`, with the covariance at the mean correlation (his equations
    10 and 14),

    .. math::
        z = (\operatorname{artanh} r_1 - \operatorname{artanh} r_2) \sqrt{\frac{n - 3}{2 - 2 \bar{s}}}, \qquad
        \bar{s} = \frac{r_{12} (1 - 2 \bar{r}^2) - \frac{1}{2} \bar{r}^2 (1 - 2 \bar{r}^2 - r_{12}^2)}
        {(1 - \bar{r}^2)^2}

    with :math:`\bar{r} = (r_1 + r_2) / 2`, against the normal distribution. It is signed, as
    :func:`~stpredict.metrics.williams_t` is, which keeps its level better in small samples.

    Parameters
    ----------
    r1
        Correlations of the first prediction with the truth, one per gene.
    r2
        Correlations of the second prediction with the truth.
    r12
        Correlations of the two predictions with each other.
    n
        Number of independent observations, one for all or one per gene.
    alternative
        Alternative hypothesis: `"greater"` (`r1` is the greater one), `"less"` or `"two-sided"`.

    Returns
    -------
    The statistic and its p-value, float64 in the common shape of the arguments. Both are NaN where a correlation is
    NaN or beyond 1, `n` is below 4, or no data can have these correlations (a determinant below -1e-6). Predictions
    that are equal up to a linear map (`r12` = 1) have z = 0; a perfect prediction (`r1` = 1) has an infinite z.

    Raises
    ------
    ValueError
        When the alternative is unknown or the shapes do not broadcast.

    Examples
    --------
    >>> from stpredict.metrics import steiger_z
    >>> z, p = steiger_z(0.4, 0.3, 0.5, 100, alternative="two-sided")
    >>> float(z.round(4)), float(p.round(4))
    (1.0718, 0.2838)
    """
    from scipy.special import ndtr

    r1, r2, r12, n = read_triple(r1, r2, r12, n, alternative)
    square = ((r1 + r2) / 2) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        # (1 - s) (1 - square)^2, factored: nothing cancels where r12 is near 1.
        rest = (1 - r12) * np.maximum(1 - square * (3 - r12) / 2, 0)
        z = divide((np.arctanh(r1) - np.arctanh(r2)) * (1 - square), np.sqrt(2 * rest / (n - 3)), r1, r2)
    return z, tail(z, ndtr, alternative)
