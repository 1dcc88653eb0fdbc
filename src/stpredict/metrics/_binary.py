"""Areas under curves of two classes, for several weightings of the observations at once."""

from __future__ import annotations

from typing import Any

import numpy as np

_BLOCK = 2**24  # numbers held at a time


def auroc(truth: Any, score: Any, weights: np.ndarray | None = None, strata: Any = None) -> np.ndarray:
    """Area under the receiver operating characteristic, ties at one half.

    Parameters
    ----------
    truth
        Class of each observation (n,), true for the positive one.
    score
        Score of each observation (n,), higher for the positive class.
    weights
        Number of times that each observation counts in each resample (n_resamples, n); once when `None`.
    strata
        Stratum of each observation (n,); only pairs within one stratum are compared.

    Returns
    -------
    (n_resamples,); NaN where a class is missing.
    """
    truth, score, counts = _arrays(truth, score, weights)
    codes = np.zeros(len(truth), int) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    right, pairs = np.zeros((2, len(counts)))
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        for start, stop in _blocks(len(counts), len(rows)):
            # Rank sums by value: O(n log n), where a table of pairs would not fit for spots.
            positive, negative = _by_value(truth[rows], score[rows], counts[start:stop, rows])
            below = np.cumsum(negative, axis=1) - negative
            right[start:stop] += (positive * (below + 0.5 * negative)).sum(axis=1)
            pairs[start:stop] += positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, right / pairs, np.nan)


def average_precision(truth: Any, score: Any, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the precision-recall curve as the mean precision over steps of recall, (n_resamples,).

    A score without information reaches the share of the positive class. NaN without that class.
    """
    truth, score, counts = _arrays(truth, score, weights)
    result = np.full(len(counts), np.nan)
    for start, stop in _blocks(len(counts), len(truth)):
        positive, negative = (v[:, ::-1] for v in _by_value(truth, score, counts[start:stop]))
        n_positive = np.cumsum(positive, axis=1)
        total = positive.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = n_positive / (n_positive + np.cumsum(negative, axis=1))
            area = np.where(positive > 0, precision * positive, 0.0).sum(axis=1) / total
        result[start:stop] = np.where(total > 0, area, np.nan)
    return result


def balanced_accuracy(truth: Any, predicted: Any, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean of sensitivity and specificity, (n_resamples,); NaN where a class is missing."""
    truth, predicted_positive, counts = _arrays(truth, predicted, weights)
    predicted_positive = predicted_positive > 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = counts @ (truth & predicted_positive) / (counts @ truth.astype(float))
        specificity = counts @ (~truth & ~predicted_positive) / (counts @ (~truth).astype(float))
    return (sensitivity + specificity) / 2


def _arrays(truth: Any, score: Any, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth, score = np.asarray(truth).astype(bool), np.asarray(score, dtype=np.float64)
    counts = np.ones((1, len(truth))) if weights is None else np.asarray(weights, dtype=np.float64)
    return truth, score, counts


def _by_value(truth: np.ndarray, score: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of each class at each distinct score, ascending: both (n_resamples, n_values)."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0) if len(order) else order
    ordered = counts[:, order]
    sums = (np.add.reduceat(ordered * where[order], starts, axis=1) for where in (truth, ~truth))
    first, second = sums if len(order) else (ordered, ordered)
    return first, second


def _blocks(n_resamples: int, n: int) -> list[tuple[int, int]]:
    step = max(1, _BLOCK // max(1, n))
    return [(start, min(start + step, n_resamples)) for start in range(0, n_resamples, step)]
