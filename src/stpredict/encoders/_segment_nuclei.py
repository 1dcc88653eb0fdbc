"""Nuclei in a stained picture: hematoxylin, a local threshold, and a watershed."""

from __future__ import annotations

from typing import Any

import numpy as np

UM_PER_PX = 0.5  # of every picture that nuclei are looked for in; settings below are in µm and do not depend on it
REACH_UM = 96.0  # beyond which pixels do not matter for a nucleus; what is seen of a picture must reach so far
MIN_AREA_UM2, MAX_AREA_UM2 = 10.0, 500.0

# Optical densities (log10) of hematoxylin and eosin in red, green and blue :cite:p:`ruifrok2001`.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
_SMOOTH_UM = 0.5
_WINDOW_UM = 10.0  # standard deviation of the window that the threshold is taken in
BLOCK = 8  # pixels of a side that are averaged for what varies slowly
_ROUNDS = 2
_CONTRAST = 0.07  # optical density that a nucleus has more than its surroundings, at least
_COLOR = 0.02  # optical density between channels; gray pictures have less
_HOLE_UM2 = 12.0
_PEAK_UM = 1.6  # half side of the square in which a center is the deepest point
_NECK = 0.85  # of the depth of the shallower of two parts; where the border between them is deeper, they are one


def stain_densities(rgb: np.ndarray) -> np.ndarray:
    """Optical densities (log10) of hematoxylin and eosin.

    Parameters
    ----------
    rgb
        uint8 (..., 3).

    Returns
    -------
    float32 (2, ...).
    """
    density = _DENSITY[rgb]
    return np.stack([density @ _UNMIXING[:, stain] for stain in range(2)])


def stain_unmixing() -> np.ndarray:
    """(3, 3) from optical densities of red, green and blue to those of the stains and of what neither explains."""
    stains = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    rest = np.cross(*stains)
    return np.linalg.inv(np.vstack([stains, rest / np.linalg.norm(rest)])).astype(np.float32)


_DENSITY = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
_UNMIXING = stain_unmixing()


def segment_nuclei(
    rgb: np.ndarray,
    hematoxylin: np.ndarray | None = None,
    *,
    min_area_um2: float = MIN_AREA_UM2,
    max_area_um2: float = MAX_AREA_UM2,
) -> np.ndarray:
    """Find the nuclei of a picture.

    A pixel belongs to a nucleus where its hematoxylin lies above the middle between the two classes of pixels around it
    (a threshold as of Ridler and Calvard, in a window of about 30 µm), and differs from the lower class by a minimal
    optical density. Touching nuclei are parted by a watershed on the depth of a pixel, and parts are put together again
    where the neck between them is as wide as they are. Only pixels within `REACH_UM` matter, so that a picture may be
    seen in pieces that overlap.

    Parameters
    ----------
    rgb
        uint8 (h, w, 3), of `UM_PER_PX`.
    hematoxylin
        The first of :func:`stain_densities`, where it is known.
    min_area_um2, max_area_um2
        Areas beyond which something is no nucleus.

    Returns
    -------
    int32 (h, w), 0 outside of nuclei, which are numbered from 1 without gaps. None in gray or empty pictures.
    """
    from scipy import ndimage
    from skimage.segmentation import watershed

    if hematoxylin is None:
        hematoxylin = stain_densities(rgb)[0]
    if hematoxylin.max() - hematoxylin.min() < _CONTRAST:  # glass: most of a slide
        return np.zeros(hematoxylin.shape, np.int32)
    smooth = ndimage.gaussian_filter(hematoxylin, _SMOOTH_UM / UM_PER_PX, truncate=3)
    mask = _filled(smooth > _threshold(smooth, rgb))
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    depth = ndimage.distance_transform_edt(mask).astype(np.float32)
    relief = ndimage.gaussian_filter(depth, 0.5 / UM_PER_PX, truncate=3)
    size = 2 * round(_PEAK_UM / UM_PER_PX) + 1
    centers = mask & (relief == ndimage.maximum_filter(relief, size))
    seeds, _ = ndimage.label(centers, np.ones((3, 3)))
    parts = watershed(-relief, seeds, mask=mask)
    return _sized(_joined(parts, relief), min_area_um2, max_area_um2)


def _threshold(values: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Threshold of each pixel (h, w): the middle between the means of the two classes around it."""
    shape = values.shape
    mean, square = _around(values, values * values)
    level = mean + 0.5 * np.sqrt(np.maximum(square - mean**2, 0))
    for _ in range(_ROUNDS):
        above = values > _enlarged(level, shape)
        share, high = _around(above, np.where(above, values, 0))
        # A window without a nucleus has no upper class; a little of one with the least contrast stands in for it.
        low = (mean - high) / np.maximum(1 - share, 1e-3)
        top = (high + 0.01 * (low + 2 * _CONTRAST)) / (share + 0.01)
        level = np.maximum((low + top) / 2, low + _CONTRAST)
    highest, lowest = rgb.max(axis=2), rgb.min(axis=2)
    (color,) = _around(_DENSITY[lowest] - _DENSITY[highest])
    return _enlarged(np.where(color < _COLOR, np.float32(np.inf), level), shape)


def _around(*images: np.ndarray) -> list[np.ndarray]:
    """Means of pictures in a Gaussian window around each block of pixels (h / BLOCK, w / BLOCK)."""
    from scipy.ndimage import gaussian_filter

    found = []
    for image in images:
        height, width = image.shape
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        if (rows * BLOCK, columns * BLOCK) != image.shape:
            image = np.pad(image, ((0, rows * BLOCK - height), (0, columns * BLOCK - width)), mode="edge")
        lines = image.reshape(rows, BLOCK, columns * BLOCK).sum(axis=1, dtype=np.float32)
        blocks = lines.reshape(rows, columns, BLOCK) @ np.full(BLOCK, 1 / BLOCK**2, np.float32)
        found.append(gaussian_filter(blocks, _WINDOW_UM / UM_PER_PX / BLOCK, truncate=3))
    return found


def _enlarged(blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Blocks as pixels (h, w)."""
    return np.repeat(np.repeat(blocks, BLOCK, axis=0), BLOCK, axis=1)[: shape[0], : shape[1]]


def _filled(mask: np.ndarray) -> np.ndarray:
    """Mask without hairs, and without holes that are smaller than a nucleus."""
    from scipy import ndimage

    cross = ndimage.generate_binary_structure(2, 1)
    holes, _ = ndimage.label(~mask)
    small = np.bincount(holes.ravel()) < _HOLE_UM2 / UM_PER_PX**2
    small[0] = True
    return np.asarray(ndimage.binary_opening(small[holes], cross))


def _joined(parts: np.ndarray, relief: np.ndarray) -> np.ndarray:
    """Parts of a watershed, those with a wide neck between them put together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = int(parts.max())
    pairs, necks = [], []
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        border = (parts[a] != parts[b]) & (parts[a] > 0) & (parts[b] > 0)
        pairs.append(np.stack([parts[a][border], parts[b][border]]))
        necks.append(np.minimum(relief[a][border], relief[b][border]))
    (first, second), neck = np.concatenate(pairs, axis=1), np.concatenate(necks)
    if not len(neck):
        return parts
    deepest = np.zeros(n + 1, np.float32)
    np.maximum.at(deepest, parts.ravel(), relief.ravel())
    wide = neck > _NECK * np.minimum(deepest[first], deepest[second])
    graph = coo_array((np.ones(int(wide.sum())), (first[wide], second[wide])), shape=(n + 1, n + 1))
    group: Any = connected_components(graph, directed=False)[1]
    return group[parts] - group[0]


def _sized(labels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Labels of accepted areas, numbered without gaps in the order of their first pixels."""
    area = np.bincount(labels.ravel()) * UM_PER_PX**2
    kept = (area >= low) & (area <= high)
    kept[0] = False
    number = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return number[labels]
