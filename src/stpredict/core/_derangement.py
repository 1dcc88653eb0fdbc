"""Permutations that leave nothing where it was."""

from __future__ import annotations

import numpy as np


def derangement(n: int, seed: int) -> np.ndarray:
    """For each of n things another one, (n,) int64: a permutation in one cycle, drawn at random."""
    order = np.random.default_rng(seed).permutation(n)
    place = np.empty(n, dtype=np.int64)
    place[order] = np.roll(order, 1)
    return place
