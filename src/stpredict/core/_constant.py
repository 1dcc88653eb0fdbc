"""When numbers count as constant: the only place that says it, for features, targets, covariates and figures."""

from __future__ import annotations

from typing import Any

#: Largest spread of a constant, relative to the size of its values. Single precision keeps seven digits: what varies in
#: the sixth is rounding, and the next value that is a little different would lie thousands of spreads away.
TOLERANCE = 1e-5


def constant(std: Any, size: Any) -> Any:
    """Whether columns are constant beside the size of their values, whatever that is.

    What is constant in training is to contribute nothing, there and at prediction: nothing was learned about it.

    Parameters
    ----------
    std
        Standard deviations (d,), an array or a tensor.
    size
        Size of the values (d,), of either sign: their mean, or the root of their mean square where they are centered on
        several means.

    Returns
    -------
    Mask (d,) of the same kind.
    """
    return std <= TOLERANCE * abs(size)
