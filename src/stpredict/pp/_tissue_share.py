"""How much of every tile is tissue: polygons to pixels, and means over squares."""

from __future__ import annotations

import numpy as np


def raster(polygons: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    """Pixels whose centers lie in polygons (h, w), `scale` times the size (width, height) of the slide.

    Every edge is noted where it crosses the middle of a row, with the sign of its direction (all outlines turn one way,
    all holes the other); the running sum along the row is then how many polygons a pixel lies in.
    """
    import shapely

    width, height = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    rings = shapely.get_rings(shapely.normalize(shapely.get_parts(polygons)))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points = points * scale - 0.5
    edge = np.flatnonzero(ring[1:] == ring[:-1])
    begin, end = points[edge], points[edge + 1]
    first = np.clip(np.ceil(np.minimum(begin[:, 1], end[:, 1])), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(begin[:, 1], end[:, 1])), 0, height).astype(np.int64)
    count = last - first
    which = np.repeat(np.arange(len(edge)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[which]
    slope = (end[which] - begin[which])[:, 0] / (end[which] - begin[which])[:, 1]
    column = np.clip(np.ceil(begin[which, 0] + (row - begin[which, 1]) * slope), 0, width).astype(np.int64)
    crossings = np.zeros((height, width + 1), dtype=np.int16)
    np.add.at(crossings, (row, column), np.where(end[which, 1] > begin[which, 1], 1, -1).astype(np.int16))
    return np.cumsum(crossings[:, :-1], axis=1, dtype=np.int16) != 0


def area_means(mask: np.ndarray, top: np.ndarray, left: np.ndarray, side: float) -> np.ndarray:
    """Mean of a mask over squares (n_rows, n_columns), exact for squares that cut pixels; beyond the mask is 0.

    The sum over a rectangle from the origin, bilinear between whole pixels, is exact for an image of constant pixels.
    """
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int32)
    sums[1:, 1:] = mask.cumsum(axis=0, dtype=np.int32).cumsum(axis=1)

    def rows_at(values: np.ndarray, at: np.ndarray) -> np.ndarray:
        at = np.clip(at, 0, values.shape[0] - 1)
        low = np.minimum(at.astype(np.int64), values.shape[0] - 2)
        part = (at - low)[:, None]
        return values[low] * (1 - part) + values[low + 1] * part

    across = rows_at(sums, top + side) - rows_at(sums, top)
    down = rows_at(across.T, left + side) - rows_at(across.T, left)
    return down.T / side**2
