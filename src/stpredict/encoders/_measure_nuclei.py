"""Size, shape, stain and texture of nuclei, all of a picture at once."""

from __future__ import annotations

import numpy as np

from stpredict.encoders._segment_nuclei import UM_PER_PX

_RING_UM = 2.0
#: What is measured of a nucleus in the picture, in the order of tables.
MEASURES = (
    "area_um2",
    "perimeter_um",
    "major_um",
    "minor_um",
    "elongation",
    "circularity",
    "angle",
    "hematoxylin",
    "hematoxylin_sd",
    "contrast",
    "gradient",
    "eosin",
)
#: What follows from where the others lie.
DISTANCES = ("nearest_um", "neighbors_um", "n_near")
_NEIGHBORS, _NEAR_UM = 5, 25.0
FAR_UM = 100.0  # a nucleus without another one nearby has it there


def measure_nuclei(labels: np.ndarray, stains: np.ndarray) -> dict[str, np.ndarray]:
    """Measure nuclei.

    Parameters
    ----------
    labels
        int32 (h, w) of `UM_PER_PX`, 0 outside, n nuclei numbered from 1 without gaps.
    stains
        (2, h, w) densities of hematoxylin and eosin.

    Returns
    -------
    `x` and `y` of the centers in pixels of the picture, whose corner is (0, 0), and `MEASURES`, each (n,): area,
    perimeter (of Crofton's formula), axes of the ellipse with the same second moments, their ratio, circularity (1 is a
    disk), direction of the long axis in radians, mean and standard deviation of hematoxylin, its difference to a ring
    of 2 µm around, mean size of its gradient per µm, and mean eosin.
    """
    n = int(labels.max()) if labels.size else 0
    if n == 0:
        return {name: np.zeros(0) for name in ("x", "y", *MEASURES)}
    row, column = np.nonzero(labels)
    which = labels[row, column] - 1
    hematoxylin, eosin = stains

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(which, weights=values, minlength=n)

    size = np.bincount(which, minlength=n).astype(float)
    x, y = total(column) / size, total(row) / size
    across, down = column - x[which], row - y[which]
    # A pixel is a square: 1/12 is its own second moment.
    xx, yy = total(across * across) / size + 1 / 12, total(down * down) / size + 1 / 12
    xy = total(across * down) / size
    half, spread = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    major = 4 * np.sqrt(half + spread) * UM_PER_PX
    minor = 4 * np.sqrt(np.maximum(half - spread, 1 / 12)) * UM_PER_PX
    area, perimeter = size * UM_PER_PX**2, _perimeter(labels, n) * UM_PER_PX
    stain = hematoxylin[row, column].astype(float)
    mean = total(stain) / size
    return {
        "x": x + 0.5,
        "y": y + 0.5,
        "area_um2": area,
        "perimeter_um": perimeter,
        "major_um": major,
        "minor_um": minor,
        "elongation": major / minor,
        "circularity": np.minimum(4 * np.pi * area / perimeter**2, 1),
        "angle": 0.5 * np.arctan2(2 * xy, xx - yy),
        "hematoxylin": mean,
        "hematoxylin_sd": np.sqrt(np.maximum(total(stain**2) / size - mean**2, 0)),
        "contrast": mean - _ring(labels, hematoxylin, mean),
        "gradient": total(_gradient(hematoxylin, row, column)) / size / UM_PER_PX,
        "eosin": total(eosin[row, column]) / size,
    }


def distances(xy_um: np.ndarray) -> dict[str, np.ndarray]:
    """How far the neighbors of nuclei lie.

    Parameters
    ----------
    xy_um
        (n, 2) centers in µm.

    Returns
    -------
    `DISTANCES`, each (n,): to the nearest nucleus, the mean of those to the five nearest, and the number within 25 µm.
    Distances end at 100 µm, also where there are fewer nuclei.
    """
    from scipy.spatial import KDTree

    if not len(xy_um):
        return {name: np.zeros(0) for name in DISTANCES}
    tree = KDTree(xy_um)
    found = tree.query(xy_um, k=np.arange(2, _NEIGHBORS + 2), distance_upper_bound=FAR_UM)[0]
    found = np.minimum(found, FAR_UM)
    near = tree.query_ball_point(xy_um, _NEAR_UM, return_length=True) - 1
    return {"nearest_um": found[:, 0], "neighbors_um": found.mean(axis=1), "n_near": near.astype(float)}


def _perimeter(labels: np.ndarray, n: int) -> np.ndarray:
    """Perimeters (n,) in pixels: Crofton's formula along rows, columns and both diagonals."""
    padded = np.pad(labels, 1)
    total = np.zeros(n + 1)
    steps = (
        (padded[:, :-1], padded[:, 1:], 1.0),
        (padded[:-1], padded[1:], 1.0),
        (padded[:-1, :-1], padded[1:, 1:], np.sqrt(0.5)),
        (padded[:-1, 1:], padded[1:, :-1], np.sqrt(0.5)),
    )
    for first, second, weight in steps:
        changes = first != second
        crossed = np.bincount(first[changes], minlength=n + 1) + np.bincount(second[changes], minlength=n + 1)
        total += weight * crossed
    return total[1:] * (np.pi / 8)


def _ring(labels: np.ndarray, values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Mean of values in what surrounds each nucleus and belongs to none (n,); `inside` where there is nothing."""
    from scipy.ndimage import maximum_filter

    ring = maximum_filter(labels, 2 * round(_RING_UM / UM_PER_PX) + 1)
    row, column = np.nonzero((labels == 0) & (ring > 0))
    which = ring[row, column] - 1
    size = np.bincount(which, minlength=len(inside))
    total = np.bincount(which, weights=values[row, column], minlength=len(inside))
    return np.where(size > 0, total / np.maximum(size, 1), inside)


def _gradient(values: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Size of the gradient at some pixels, per pixel."""
    left, right = np.maximum(column - 1, 0), np.minimum(column + 1, values.shape[1] - 1)
    above, below = np.maximum(row - 1, 0), np.minimum(row + 1, values.shape[0] - 1)
    return np.hypot(values[row, right] - values[row, left], values[below, column] - values[above, column]) / 2
