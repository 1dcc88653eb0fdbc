"""Rows of one section that are far enough apart to share no pixels, and stripes of a section."""

from __future__ import annotations

import numpy as np


def gaps_um(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance (n,) of points (n, 2) to the nearest of others (m, 2), along the axis on which it is larger.

    Squares of one side around two points overlap where it is smaller than that side.
    """
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(others).query(points, p=np.inf)
    return np.asarray(distance)


def ranks_along(positions: np.ndarray) -> np.ndarray:
    """Rank (n,) of positions (n, 2) along the longer side of what they span, so that stripes across it are short."""
    along = positions[:, int(np.argmax(np.ptp(positions, axis=0)))]
    ranks = np.empty(len(along), dtype=np.int64)
    ranks[np.argsort(along, kind="stable")] = np.arange(len(along))
    return ranks


def clear_of(held_out: np.ndarray, positions: np.ndarray | None, reach_um: float) -> np.ndarray:
    """Mask (n,) of the rows that are not held out and share nothing with those that are.

    Parameters
    ----------
    held_out
        Mask (n,) of rows of a section.
    positions
        (n, 2) in µm; without them nothing is known to be near.
    reach_um
        Side of the largest square that a row was read from, its margin included.
    """
    clear = ~held_out
    if positions is not None and reach_um > 0 and held_out.any():
        clear[clear] = gaps_um(positions[clear], positions[held_out]) >= reach_um
    return clear


def is_enough(train: np.ndarray, held_out: np.ndarray) -> bool:
    """Whether as many rows are left to train on (a mask) as are held out, two at least."""
    return bool(train.sum() >= max(2, held_out.sum()))


def stripe_folds(positions: np.ndarray, reach_um: float, n_stripes: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks (n,) of what to train on and what to hold out, a stripe of one section at a time, each behind a buffer.

    Empty where there is too little for any.

    Parameters
    ----------
    positions
        (n, 2) in µm.
    reach_um
        Side of the largest square that a row was read from, its margin included.
    n_stripes
        Number of stripes.
    """
    if len(positions) < 2 * n_stripes:
        return []
    stripe = ranks_along(positions) * n_stripes // len(positions)
    folds = [(clear_of(stripe == number, positions, reach_um), stripe == number) for number in range(n_stripes)]
    return folds if all(is_enough(*fold) for fold in folds) else []
