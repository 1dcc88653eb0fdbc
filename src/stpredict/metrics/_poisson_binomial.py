"""How many of several events happen, when each has a probability of its own."""

from __future__ import annotations

import numpy as np

_BLOCK = 2**18  # values held at a time, so that they stay in the cache


def poisson_binomial_tail(probability: np.ndarray, tested: np.ndarray, most: int | None = None) -> np.ndarray:
    """P(at least k events) for k = 0, …, `most`: exact, by adding one event after another.

    All terms are positive, so that small tails keep their digits.

    Parameters
    ----------
    probability
        (n_events,) of each event.
    tested
        (n, n_events) bool, which events can happen in each row; rows that are alike are worked out once.
    most
        Largest k; `n_events` when `None`.

    Returns
    -------
    (n, most + 1) float64.
    """
    probability = np.asarray(probability, dtype=np.float64)
    most = len(probability) if most is None else most
    # Rows are told apart by their bytes: sorting them column by column takes minutes for a thousand columns.
    packed = np.ascontiguousarray(np.packbits(np.asarray(tested, dtype=bool), axis=1))
    _, first, inverse = np.unique(
        packed.view(np.dtype((np.void, packed.shape[1]))).ravel(), return_index=True, return_inverse=True
    )
    patterns = np.asarray(tested, dtype=bool)[first]
    tail = np.empty((len(patterns), most + 1))
    step = max(1, _BLOCK // (most + 1))
    for start in range(0, len(patterns), step):
        tail[start : start + step] = _tail(probability * patterns[start : start + step], most)
    return tail[inverse.ravel()]


def _tail(probability: np.ndarray, most: int) -> np.ndarray:
    """The tails (n, most + 1) of rows of probabilities (n, n_events).

    `state[j]` is P(j events) for j < most; the last one is P(at least `most`), which nothing leaves.
    """
    state = np.zeros((most + 1, len(probability)))
    state[0] = 1
    for number, p in enumerate(probability.T):
        top = min(number + 1, most)  # there are no more events yet
        moved = state[:top] * p
        state[: min(top + 1, most)] *= 1 - p
        state[1 : top + 1] += moved
    # Rounding must not make a probability larger than 1.
    return np.minimum(np.cumsum(state[::-1], axis=0)[::-1].T, 1.0)
