"""Harrell's concordance of risks with survival."""

from __future__ import annotations

from typing import Any

import numpy as np

_BLOCK = 2**22  # pairs held at a time


def concordance(time: Any, event: Any, risk: Any) -> float:
    """Compute the share of comparable pairs of patients that a risk orders rightly :cite:p:`harrell1982`.

    A pair is comparable when the patient with the shorter follow-up had the event; of two equal follow-ups, one that
    ended in the event counts as the shorter one, and two events are not comparable. Pairs of equal risk count half.

    Parameters
    ----------
    time
        Follow-up of each patient (n,), in any unit.
    event
        Event indicator of each patient (n,): 1 or true where the follow-up ended in the event, 0 where it was censored.
    risk
        Predicted risk (n,), on any scale; higher means an earlier event.

    Returns
    -------
    Harrell's C, 0.5 for a risk that holds no information and 1 for one that orders all pairs; NaN when no pair is
    comparable.

    Raises
    ------
    ValueError
        When the lengths differ, a value is NaN, or an event is neither 0 nor 1.

    Examples
    --------
    >>> from stpredict.metrics import concordance
    >>> concordance([1, 2, 3, 4], [1, 1, 0, 1], [4, 2, 3, 1])
    0.8
    """
    right, comparable = concordant_pairs(time, event, risk)
    return float(right[0] / comparable[0]) if comparable[0] else float("nan")


def concordant_pairs(
    time: Any, event: Any, risk: Any, *, weights: np.ndarray | None = None, strata: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Count rightly ordered and comparable pairs, for each of several weightings of the patients.

    Parameters
    ----------
    time, event, risk
        Follow-up, event indicator and risk of each patient (n,), as in :func:`concordance`.
    weights
        Number of times that each patient counts in each resample (n_resamples, n); once when `None`.
    strata
        Stratum of each patient (n,); only pairs within one stratum are comparable.

    Returns
    -------
    Rightly ordered pairs, ties at one half, and comparable pairs, both (n_resamples,).
    """
    time, event, risk = _check(time, event, risk)
    counts = np.ones((1, len(time))) if weights is None else np.asarray(weights, dtype=np.float64)
    stratum = None if strata is None else np.unique(np.asarray(strata).astype(str), return_inverse=True)[1]
    right, comparable = np.zeros((2, len(counts)))
    earlier = np.flatnonzero(event)
    step = max(1, _BLOCK // max(1, len(time)))
    for start in range(0, len(earlier), step):
        rows = earlier[start : start + step]
        later = (time > time[rows, None]) | ((time == time[rows, None]) & ~event)
        if stratum is not None:
            later &= stratum == stratum[rows, None]
        ordered = later * (0.5 * (risk < risk[rows, None]) + 0.5 * (risk <= risk[rows, None]))
        right += np.einsum("br,br->b", counts @ ordered.T, counts[:, rows])
        comparable += np.einsum("br,br->b", counts @ later.T.astype(np.float64), counts[:, rows])
    return right, comparable


def _check(time: Any, event: Any, risk: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    time, event, risk = (np.asarray(v, dtype=np.float64) for v in (time, event, risk))
    if time.ndim != 1 or not time.shape == event.shape == risk.shape:
        raise ValueError(
            f"expected time, event and risk of one shape (n,); found {time.shape}, {event.shape} and {risk.shape}"
        )
    for name, values in (("time", time), ("event", event), ("risk", risk)):
        if np.isnan(values).any():
            raise ValueError(f"expected {name} without NaN; found {int(np.isnan(values).sum())}; leave these out")
    if not np.isin(event, (0, 1)).all():
        raise ValueError(f"expected events of 0 or 1; found {event[~np.isin(event, (0, 1))][0]:g}")
    return time, event == 1, risk
