"""The pitch of a spot lattice in pixels, from array positions and pixel positions."""

from __future__ import annotations

from typing import Literal

import numpy as np

from stpredict.core._validate import check_choice

Lattice = Literal["square", "hexagonal", "hex"]

LARGEST_PX = 1e8  # no image is as wide, and beyond it squares lose their digits
_MISFIT = 0.5  # of the pitch: beyond this, array positions and pixels do not belong to the same spots
ANISOTROPY = 1.1  # the wrong kind of lattice gives 1.15 at least
STRETCH = 1.5  # of pixels that are not square; more than any scan that was stored in another ratio
_SKEW = 0.05  # cosine of the angle between the axes


def long_lattice(lattice: str) -> Literal["square", "hexagonal"]:
    """The kind of lattice, of which `"hex"` is a short word."""
    check_choice(lattice, ("square", "hexagonal", "hex"), "lattice")
    return "square" if lattice == "square" else "hexagonal"


def pitch_px(array_row: np.ndarray, array_col: np.ndarray, xy: np.ndarray, lattice: Lattice = "square") -> float:
    """Fit array positions to pixels and return the distance of neighboring spots in pixels.

    The affine map is fitted by least squares, so that rotated, mirrored and transposed arrays give the same pitch.

    Parameters
    ----------
    array_row, array_col
        (n,) positions on the lattice. On a hexagonal lattice the neighbors within a row are two columns apart, and
        neighboring rows are shifted by one column (Visium).
    xy
        (n, 2) x and y in pixels.
    lattice
        `"square"` (Spatial Transcriptomics arrays, binned data) or `"hexagonal"` (Visium).

    Returns
    -------
    Distance between neighboring spots in pixels.

    Raises
    ------
    ValueError
        When fewer than three spots that are not on a line are given, or if the pixels do not form such a lattice.

    Examples
    --------
    >>> row, col = np.mgrid[:3, :4].reshape(2, -1)
    >>> round(pitch_px(row, col, 290.0 * np.column_stack([col, row])), 3)
    290.0
    """
    scales, pitch = _fitted(array_row, array_col, xy, long_lattice(lattice))
    if scales[0] > ANISOTROPY * scales[1]:
        raise ValueError(
            f"expected a {long_lattice(lattice)} lattice; found {scales[0]:.1f} px per step in one direction and "
            f"{scales[1]:.1f} px in the other; check `lattice=` and that array_row and array_col are those of these spots, or "
            "pass `microns_per_pixel=` along x and y where the pixels of the image are not square"
        )
    return pitch


def axis_pitches_px(array_row: np.ndarray, array_col: np.ndarray, xy: np.ndarray) -> tuple[float, float]:
    """Pixels that a step of a square lattice is long along x and along y of the image, however the array is turned.

    The two are the same but for little where pixels are square. Parameters as for :func:`pitch_px`.

    Raises
    ------
    ValueError
        When fewer than three spots that are not on a line are given, or the pixels do not form such a lattice.

    Examples
    --------
    >>> row, col = np.mgrid[:3, :4].reshape(2, -1)
    >>> x, y = axis_pitches_px(row, col, np.column_stack([21.6 * col, 24.0 * row]))
    >>> round(x, 3), round(y, 3)
    (21.6, 24.0)
    """
    scales, _ = _fitted(array_row, array_col, xy, "square")
    matrix = _matrix(np.column_stack([array_col, array_row]).astype(float), np.asarray(xy, dtype=float))
    x, y = np.linalg.norm(matrix, axis=0)
    # A turned array in stretched pixels has both columns at right angles, as the array has.
    skew = abs(float(matrix[:, 0] @ matrix[:, 1])) / (x * y)
    if skew > _SKEW or max(x, y) > STRETCH * min(x, y):
        raise ValueError(
            f"expected a square lattice, stretched along x or y by at most {STRETCH:g}; found {scales[0]:.1f} px per step in "
            f"one direction and {scales[1]:.1f} px in the other; check that the array positions are those of these spots"
        )
    return float(x), float(y)


def _fitted(
    array_row: np.ndarray, array_col: np.ndarray, xy: np.ndarray, lattice: Literal["square", "hexagonal"]
) -> tuple[np.ndarray, float]:
    """Pixels per step in the two directions that differ most (2,), and their geometric mean; checked."""
    largest = max(
        float(np.abs(np.asarray(values, dtype=float)).max(initial=0)) for values in (array_row, array_col, xy)
    )
    if not largest < LARGEST_PX:
        raise ValueError(
            f"expected array positions and pixels below {LARGEST_PX:.0e} to derive the lattice pitch; found {largest:g}; "
            "correct these positions"
        )
    if (fitted := fit_lattice(array_row, array_col, xy, lattice)) is None:
        n = len(array_row)
        raise ValueError(
            f"expected at least three spots that are not on a line to derive the lattice pitch; found {n} "
            f"spot{'s' if n != 1 else ''}; pass `microns_per_pixel=`"
        )
    scales, misfit = fitted
    pitch = float(np.sqrt(scales[0] * scales[1]))
    if not pitch > 0 or misfit > _MISFIT * pitch:
        raise ValueError(
            f"expected pixel positions that follow the array positions; found a misfit of {misfit:.1f} px at a pitch "
            f"of {pitch:.1f} px; check that array positions and pixels belong to the same spots"
        )
    return scales, pitch


def fit_lattice(
    array_row: np.ndarray, array_col: np.ndarray, xy: np.ndarray, lattice: Lattice
) -> tuple[np.ndarray, float] | None:
    """Pixels per step in the two directions in which they differ most (2,), and the root mean square misfit in pixels.

    `None` where the spots are on a line.
    """
    index = np.column_stack([array_col, array_row]).astype(float)
    if lattice == "hexagonal":
        index *= (0.5, np.sqrt(3) / 2)
    xy = np.asarray(xy, dtype=float)
    centered, target = index - index.mean(axis=0), xy - xy.mean(axis=0)
    if len(index) < 3 or min(np.linalg.matrix_rank(centered), np.linalg.matrix_rank(target)) < 2:
        return None
    matrix = _matrix(index, xy)
    misfit = float(np.sqrt(((centered @ matrix - target) ** 2).sum(axis=1).mean()))
    return np.linalg.svd(matrix, compute_uv=False), misfit


def _matrix(index: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Matrix (2, 2) that takes steps to pixels, by least squares."""
    matrix, *_ = np.linalg.lstsq(index - index.mean(axis=0), xy - xy.mean(axis=0), rcond=None)
    return matrix
