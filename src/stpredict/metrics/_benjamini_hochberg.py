"""False-discovery rates."""

from __future__ import annotations

from typing import Any

import numpy as np


def benjamini_hochberg(p: Any) -> np.ndarray:
    """Adjust p-values of many genes to false-discovery rates :cite:p:`benjamini1995`.

    Parameters
    ----------
    p
        p-values of one family of tests (n,). NaN counts as 1: a gene that could not be tested is no discovery, and is
        one of the genes that were looked at.

    Returns
    -------
    q-values (n,), float64: calling every gene with `q` below a level keeps the expected share of false calls below it.

    Raises
    ------
    ValueError
        When a p-value is outside 0 to 1, or the array is not one-dimensional.

    Examples
    --------
    >>> from stpredict.metrics import benjamini_hochberg
    >>> benjamini_hochberg([0.01, 0.02, 0.5, float("nan")]).round(3)
    array([0.04 , 0.04 , 0.667, 1.   ])
    """
    from scipy.stats import false_discovery_control

    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected the p-values of one family of tests, of shape (n,); found shape {values.shape}")
    values = np.where(np.isnan(values), 1.0, values)
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"expected p-values between 0 and 1; found {values.min():g} to {values.max():g}")
    return false_discovery_control(values, method="bh") if values.size else values
