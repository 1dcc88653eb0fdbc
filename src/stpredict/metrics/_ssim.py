"""Structural similarity of gene maps on an array lattice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stpredict.metrics._pairs import check_pair, gene_blocks, seen
from stpredict.metrics._rasterize import lattice

_C1, _C2 = 0.01**2, 0.03**2  # the range of a map is 1 after scaling
_COPIES = 8  # values that are held per cell of a map, beside a strip
_HELD = 2**14  # cells of a map that are worked on at a time: about a dozen images of them stay in the cache


def ssim(
    truth: Any,
    predicted: Any,
    array_row: np.ndarray,
    array_col: np.ndarray,
    *,
    window: int = 7,
    sigma: float = 1.5,
    min_tissue: float = 0.5,
) -> np.ndarray:
    r"""Compute the structural similarity of measured and predicted maps :cite:p:`wang2004`, per gene.

    Both maps of a gene are scaled by their joint minimum and maximum and placed on the lattice
    (:func:`~stpredict.metrics.rasterize`). In each Gaussian window, means, variances and covariance are taken over
    tissue only, so that empty background adds no similarity:

    .. math:: \frac{(2\mu_x\mu_y + C_1)(2\sigma_{xy} + C_2)}{(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}

    with :math:`C_1 = 0.01^2` and :math:`C_2 = 0.03^2`. The score is the mean over windows with enough tissue.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse, in-tissue observations of one section.
    predicted
        Predicted expression of the same shape and unit.
    array_row
        Lattice row of each observation (n_obs,).
    array_col
        Lattice column of each observation (n_obs,).
    window
        Side of the window in lattice steps, odd.
    sigma
        Standard deviation of the Gaussian in lattice steps.
    min_tissue
        Smallest fraction of the window's positions that are tissue, in 0–1.

    Returns
    -------
    Similarity per gene (n_genes,), float64, at most 1. NaN where both maps are the same constant, where a value is
    NaN, and everywhere when no window holds enough tissue.

    Raises
    ------
    ValueError
        When shapes differ, positions repeat or are not whole numbers, or the window is not odd.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import ssim
    >>> row, col = np.divmod(np.arange(64), 8)
    >>> truth = np.random.default_rng(0).random((64, 1))
    >>> ssim(truth, truth, row, col).round(6)
    array([1.])
    """
    truth, predicted = check_pair(truth, predicted)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"expected an odd positive window; found {window}")
    if not sigma > 0:
        raise ValueError(f"expected a positive sigma; found {sigma}")
    if not 0 < min_tissue <= 1:
        raise ValueError(f"expected min_tissue in (0, 1]; found {min_tissue}")
    row, col, shape = lattice(array_row, array_col, truth.shape[0])
    result = np.full(truth.shape[1], np.nan)
    if truth.shape[0] == 0:
        return result
    tissue = np.zeros(shape)
    tissue[row, col] = 1.0
    enough_tissue = _filter(tissue, np.full(window, 1.0 / window)) >= min_tissue - 1e-9
    n_windows = int(enough_tissue.sum())
    if not n_windows:
        return result
    offset = np.arange(window) - window // 2
    kernel = np.exp(-0.5 * (offset / sigma) ** 2)
    kernel /= kernel.sum()
    at = row * shape[1] + col
    weight, strips = _filter(tissue, kernel), list(_strips(shape, window // 2))
    for genes in gene_blocks((tissue.size, truth.shape[1]), copies=_COPIES):
        x, y = seen(truth, genes).T, seen(predicted, genes).T
        low = np.minimum(x.min(axis=1), y.min(axis=1))[:, None]
        extent = np.maximum(x.max(axis=1), y.max(axis=1))[:, None] - low
        defined = extent[:, 0] > 0
        images = np.zeros((2, int(defined.sum()), *shape))
        cells = images.reshape(2, -1, tissue.size)
        for image, values in zip(cells, (x, y), strict=True):
            image[:, at] = (values[defined] - low[defined]) / extent[defined]
        total = np.zeros(images.shape[1])
        for around, inside, rows in strips:
            similarity = ssim_map(images[0][:, around], images[1][:, around], weight[around], kernel)[:, inside]
            total += np.where(enough_tissue[rows], similarity, 0.0).sum(axis=(1, 2))
        block = np.full(len(defined), np.nan)
        block[defined] = total / n_windows
        result[genes] = block
    return result


def _strips(shape: tuple[int, int], margin: int) -> Iterator[tuple[slice, slice, slice]]:
    """Strips of a map: its rows with a margin that windows reach into, its own rows among these, and in the map."""
    height = max(2 * margin + 1, _HELD // shape[1])
    for start in range(0, shape[0], height):
        stop = min(start + height, shape[0])
        first = max(start - margin, 0)
        yield slice(first, min(stop + margin, shape[0])), slice(start - first, stop - first), slice(start, stop)


def ssim_map(x: np.ndarray, y: np.ndarray, weight: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Structural similarity around every cell of maps (n_genes, n_rows, n_cols) scaled to 0–1, 0 off tissue.

    `weight` is the share of each window that is tissue.
    """
    weight = np.maximum(weight, np.finfo(float).tiny)
    mean_x, mean_y = _filter(x, kernel) / weight, _filter(y, kernel) / weight
    var_x = np.maximum(_filter(x * x, kernel) / weight - mean_x**2, 0)
    var_y = np.maximum(_filter(y * y, kernel) / weight - mean_y**2, 0)
    covariance = _filter(x * y, kernel) / weight - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    similarity /= (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    return similarity


def _filter(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve the last two axes with a separable symmetric kernel; nothing lies outside the grid."""
    from scipy.ndimage import correlate1d

    rows = correlate1d(images, kernel, axis=-2, mode="constant")
    return correlate1d(rows, kernel, axis=-1, mode="constant")
