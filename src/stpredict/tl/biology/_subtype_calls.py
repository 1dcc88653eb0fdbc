"""Which module of genes is highest in each observation, relative to the others of its section; on arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stpredict.core._validate import check_finite
from stpredict.slots._expression import to_dense
from stpredict.tl.biology._set_scores import LinearScore

_BLOCK = 2**24  # values held at a time


@dataclass(frozen=True)
class Calls:
    """Calls of some observations.

    Attributes
    ----------
    percentile
        (n, k) percentile of each score within the section, 0 to 100; NaN where a score is constant in it.
    best
        (n,) column of the highest percentile, -1 where there is none.
    margin
        (n,) how far it is above the second, in percentile points.
    """

    percentile: np.ndarray
    best: np.ndarray
    margin: np.ndarray


def call(scores: np.ndarray, section: np.ndarray) -> Calls:
    """Percentiles of scores (n, k) within sections (n,), and the highest of each row."""
    from scipy.stats import rankdata

    percentile = np.full(scores.shape, np.nan)
    height = np.zeros(scores.shape)
    for code in np.unique(section):
        rows = np.flatnonzero(section == code)
        part = scores[rows]
        spread = part.std(axis=0)
        varies = spread > 1e-9 * np.abs(part).max(axis=0)
        percentile[np.ix_(rows, varies)] = 100 * rankdata(part[:, varies], axis=0) / len(rows)
        height[np.ix_(rows, varies)] = (part - part.mean(axis=0))[:, varies] / spread[varies]
    # The first spots of two modules tie: the one that stands out more decides.
    order = np.nan_to_num(percentile, nan=-np.inf) + 1e-7 * np.clip(height, -50, 50)
    best = np.where(np.isnan(percentile).all(axis=1), -1, order.argmax(axis=1))
    ranked = np.sort(np.nan_to_num(percentile, nan=0.0), axis=1)
    margin = ranked[:, -1] - ranked[:, -2] if scores.shape[1] > 1 else ranked[:, -1]
    return Calls(percentile, best, np.where(best >= 0, margin, np.nan))


def drawn_scores(
    matrix: Any, rows: np.ndarray, section: np.ndarray, score: LinearScore, member: Any, places: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n_draws, n, k) float32 and coherence (n_draws, k) of modules whose genes are moved to other places.

    Coherence is the mean correlation of two genes of a module over the observations of a section, averaged over sections.
    """
    drawn = [(score.moved(place), _moved(member, place)) for place in places]
    scores = np.empty((len(places), len(rows), member.shape[0]), dtype=np.float32)
    coherence = []
    for code in np.unique(section):
        here = np.flatnonzero(section == code)
        mean, std = _moments(matrix, rows[here])
        scaled = [_scaled(other, std) for _, other in drawn]
        offset = [other @ mean for other in scaled]
        square = np.zeros((len(places), member.shape[0]))
        for at, by_gene in _blocks(matrix, rows, here):
            controls = score.controls_of(by_gene)
            for number, (moved, _) in enumerate(drawn):
                scores[number, at] = moved.weights_of(by_gene) - controls
                total = scaled[number] @ by_gene - offset[number][:, None]
                square[number] += np.einsum("ij,ij->i", total, total)
        size = np.asarray(member.sum(axis=1)).ravel()
        varying = np.stack([other @ (std > 0) for _, other in drawn])
        coherence.append((square / len(here) - varying) / np.maximum(size * (size - 1), 1))
    return scores, np.mean(coherence, axis=0)


def _moved(member: Any, place: np.ndarray) -> Any:
    other = member.copy()
    other.indices = place[other.indices].astype(other.indices.dtype)
    other.has_sorted_indices = False
    return other


def _scaled(member: Any, std: np.ndarray) -> Any:
    """Members (k, n_genes) by the standard deviation of their gene; constant genes count for nothing."""
    other = member.astype(np.float64)
    own = std[other.indices]
    other.data = np.divide(other.data, own, out=np.zeros_like(other.data), where=own > 0)
    return other


def _moments(matrix: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n_genes,); the latter 0 where it is rounding only."""
    total, square, largest = np.zeros((3, matrix.shape[1]))
    parts = list(range(0, len(rows), max(1, _BLOCK // matrix.shape[1])))
    for start, stop in zip(parts, [*parts[1:], len(rows)], strict=True):
        values = to_dense(matrix[rows[start:stop]]).astype(np.float64)
        check_finite(values, "expression", "leave out observations or genes without it")
        total += values.sum(axis=0)
        square += (values**2).sum(axis=0)
        largest = np.maximum(largest, np.abs(values).max(axis=0))
    mean = total / len(rows)
    std = np.sqrt(np.maximum(square / len(rows) - mean**2, 0))
    return mean, np.where(std > 1e-6 * largest, std, 0.0)


def _blocks(matrix: Any, rows: np.ndarray, here: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some of the rows, and their values (n_genes, n), a block at a time."""
    step = max(1, _BLOCK // matrix.shape[1])
    for start in range(0, len(here), step):
        at = here[start : start + step]
        yield at, np.ascontiguousarray(to_dense(matrix[rows[at]]).astype(np.float64).T)
