"""Outlines of the objects in a label image."""

from __future__ import annotations

import numpy as np


def outlines(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trace the objects of a label image.

    Parameters
    ----------
    labels
        Whole numbers (h, w), 0 outside of objects.

    Returns
    -------
    Labels (n,) in rising order, and polygons (n,) of their largest pieces, in pixels; the corner of the image is (0, 0).
    """
    import shapely
    from scipy.ndimage import find_objects
    from skimage.measure import find_contours

    numbers, place = np.unique(labels, return_inverse=True)
    dense = place.reshape(labels.shape).astype(np.int32) + (numbers[0] != 0)
    numbers = numbers[numbers != 0]
    lines, kept = [], []
    for index, box in enumerate(find_objects(dense)):
        inside = np.pad(dense[box] == index + 1, 1)
        contours = [line for line in find_contours(inside.astype(np.float32), 0.5) if len(line) > 3]
        if not contours:
            continue
        line = max(contours, key=len)[:, ::-1] - 0.5 + [box[1].start, box[0].start]
        lines.append(line)
        kept.append(index)
    if not lines:
        return numbers[:0], np.empty(0, dtype=object)
    ring = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    return numbers[kept], shapely.polygons(shapely.linearrings(np.concatenate(lines), indices=ring))
