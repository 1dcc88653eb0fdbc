"""Williams' test of two correlations that share a variable."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._dependent import Alternative, divide, read_triple, tail


def williams_t(
    r1: Any, r2: Any, r12: Any, n: Any, *, alternative: Alternative = "greater"
) -> tuple[np.ndarray, np.ndarray]:
    r"""Test whether one of two predictions correlates better with the truth :cite:p:`williams1959`.

    The statistic that :cite:t:`steiger1980` recommends for small samples (his equation 7),

    .. math::
        t = (r_1 - r_2) \sqrt{\frac{(n - 1)(1 + r_{12})}{2 \frac{n - 1}{n - 3} |R| + \bar{r}^2 (1 - r_{12})^3}}

    with :math:`|R| = 1 - r_1^2 - r_2^2 - r_{12}^2 + 2 r_1 r_2 r_{12}`, :math:`\bar{r} = (r_1 + r_2) / 2` and n - 3
    degrees of freedom. It is signed: of two predictions only the better one can be significant with
    `alternative="greater"`.

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
    NaN or beyond 1, `n` is below 4, or no data can have these correlations (a determinant below -1e-6; one below 0 by
    rounding counts as 0). Predictions that are equal up to a linear map (`r12` = 1) have t = 0. With a perfect
    prediction the formula holds; against its mirror image (`r12` = -1) t is the limit, infinite where `r1` = 1.

    Raises
    ------
    ValueError
        When the alternative is unknown or the shapes do not broadcast.

    Examples
    --------
    >>> from stpredict.metrics import williams_t
    >>> t, p = williams_t(0.4, 0.3, 0.5, 100)
    >>> float(t.round(4)), float(p.round(4))
    (1.0767, 0.1421)
    """
    from scipy.special import stdtr

    r1, r2, r12, n = read_triple(r1, r2, r12, n, alternative)
    half, mean = (r1 - r2) / 2, (r1 + r2) / 2
    # The fraction is reduced by 1 + r12, so that the mirror image (r12 = -1, mean 0) is no 0 / 0.
    leaning = np.divide(mean**2, 1 + r12, out=np.zeros_like(mean), where=1 + r12 > 4 * np.finfo(np.float64).eps)
    unexplained = np.maximum((1 - r12) * (1 - 2 * leaning) - 2 * half**2, 0)
    error = np.sqrt(2 / (n - 3) * unexplained + leaning * (1 - r12) ** 3 / (n - 1))
    t = divide(r1 - r2, error, r1, r2)
    return t, tail(t, lambda value: stdtr(n - 3, value), alternative)
