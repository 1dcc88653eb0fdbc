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

    inside = labels != 0
    own = labels[inside]
    if (
        own.size and own.min() > 0 and own.max() <= labels.size
    ):  # counted, as sorting all pixels takes longer than the rest
        numbers = np.flatnonzero(np.bincount(own.astype(np.intp))).astype(labels.dtype)
    else:
        numbers = np.unique(own)
    dense = np.zeros(labels.shape, dtype=np.int32)
    dense[inside] = np.searchsorted(numbers, own) + 1
    lines, kept = [], []
    for index, box in enumerate(find_objects(dense)):
        piece = np.pad(dense[box] == index + 1, 1)
        contours = [line for line in find_contours(piece.astype(np.float32), 0.5) if len(line) > 3]
        if not contours:
            continue
        line = max(contours, key=len)[:, ::-1] - 0.5 + [box[1].start, box[0].start]
        lines.append(line)
        kept.append(index)
    if not lines:
        return numbers[:0], np.empty(0, dtype=object)
    ring = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    return numbers[kept], shapely.polygons(shapely.linearrings(np.concatenate(lines), indices=ring))
