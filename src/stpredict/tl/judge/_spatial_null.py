"""Labels that have lost their place: shuffled, or moved as a whole over their section."""

from __future__ import annotations

from typing import Literal

import numpy as np

Null = Literal["rotation", "shuffle"]


def displaced(section: np.ndarray, xy: np.ndarray | None, n: int, null: Null, rng: np.random.Generator) -> np.ndarray:
    """Draw from where each observation takes its label, within its section.

    Neighbors resemble each other, so that shuffled labels agree with a map less than any contiguous ones would.
    `"rotation"` turns the map of labels about the middle of the section by a random angle, mirrored or not, and an
    observation takes the nearest label: patches remain patches. What is symmetric about the middle remains in place,
    which makes the comparison stricter.

    Parameters
    ----------
    section
        (n_obs,) names or codes.
    xy
        (n_obs, 2) positions, for `"rotation"`.
    n
        Number of draws.

    Returns
    -------
    (n, n_obs) int64 rows.
    """
    result = np.empty((n, len(section)), dtype=np.int64)
    for name in np.unique(section):
        rows = np.flatnonzero(section == name)
        if null == "shuffle":
            result[:, rows] = rng.permuted(np.tile(rows, (n, 1)), axis=1)
            continue
        from scipy.spatial import KDTree

        assert xy is not None
        section_xy = np.asarray(xy, dtype=np.float64)[rows, :2]
        section_xy = section_xy - (section_xy.max(axis=0) + section_xy.min(axis=0)) / 2
        angle, mirror = rng.uniform(0, 2 * np.pi, n), rng.choice([-1.0, 1.0], n)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.stack([np.stack([cos * mirror, -sin], -1), np.stack([sin * mirror, cos], -1)], -2)
        tree = KDTree(section_xy)
        for i in range(n):  # one section's positions at a time
            result[i, rows] = rows[tree.query(section_xy @ turn[i].T)[1]]
    return result
