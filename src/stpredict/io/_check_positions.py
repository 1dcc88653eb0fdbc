"""Whether positions fit their image, and what is to be said about the image."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import check_finite
from stpredict.io._section_image import GRAY, SectionImage
from stpredict.slots._keys import Key
from stpredict.slots._sections import section_entry

if TYPE_CHECKING:
    from anndata import AnnData

UNCHECKED = "positions_unchecked"  # in the metadata of a section whose reader was told not to check
_FEW = 20  # spots that are too few to tell
_MARGIN = 0.1  # share of the spots by which the transposed positions have to lie better
_MOST = 0.8  # share of the transposed positions that have to lie on tissue
_BLACK = 50  # brightest channel of what may be ink, a border of the scan, or dark tissue: no evidence of either
_GLASS = 150  # darkest channel of glass; less is no background of a brightfield picture
_GLASS_TINT = 25  # largest difference of its channels
_DARK = 90  # brightest channel of the background of a fluorescence picture
_TOLERANCE = (5.0, 14.0)  # levels within which a pixel has the color of the background
_FRAME = 0.95  # share of black in the rows and columns of a frame
_WHITE = 250  # darkest channel of what is overexposed and tells nothing of color
_TINT = 2  # levels between the channels of a pixel without color, however the picture was compressed
_COLORLESS = 0.9  # share of the spots on such pixels; others may lie under what was drawn in color, such as fiducials
_RING = 0.04  # part of the smaller side that is looked at for the background


def check_positions(xy: np.ndarray, image: SectionImage, sample: str, *, check: bool = True) -> None:
    """Raise when spots lie outside the image, or when their transposed positions lie clearly better on the tissue.

    What is to be known about the image is said as well.

    Parameters
    ----------
    xy
        (n, 2) x and y in full-resolution pixels.
    image
        Image of the section.
    sample
        Name of the section.
    check
        Whether to compare the positions with the tissue.
    """
    check_finite(xy, f"positions of section {sample!r}", f"correct obsm[{Key.SPATIAL!r}]")
    outside = ~image.inside(xy)
    if outside.any():
        transposed_fits = image.inside(xy[:, ::-1]).all()
        hint = (
            "x and y look swapped: obsm['spatial'] holds x (column) first"
            if transposed_fits
            else "check that the positions are in pixels of this image at full resolution (the hires and lowres pictures of "
            "Space Ranger are made smaller: pass the one that it was given)"
        )
        where = "" if not image.origin.any() else f" that begins at ({image.origin[0]:g}, {image.origin[1]:g})"
        raise ValueError(
            f"expected the spots of section {sample!r} inside the image ({image.width} x {image.height} px{where}); "
            f"found {int(outside.sum())} of {len(xy)} outside; {hint}"
        )
    remarks = []
    if len(xy) >= _FEW:
        small, factor = image.thumbnail(512)
        if check:
            _check_axes(xy, image, small, factor, sample)
        if _is_colorless(small, (xy - image.origin) * factor):
            remarks.append(GRAY)
    for remark in dict.fromkeys([*image.remarks(), *remarks]):
        warnings.warn(f"section {sample!r}: {remark}", stacklevel=4)


def _check_axes(xy: np.ndarray, image: SectionImage, small: np.ndarray, factor: float, sample: str) -> None:
    """Raise when the transposed positions lie on tissue and the positions, far more often, on empty background."""
    empty, tissue = background_and_tissue(small)
    swapped = _mean_at(tissue, (xy[:, ::-1] - image.origin) * factor)
    if swapped < _MOST:
        return
    on_tissue = 1 - _mean_at(empty, (xy - image.origin) * factor)  # whatever is not empty may be tissue
    # Three standard errors of the difference: a few spots may lie better transposed by chance.
    error = np.sqrt((on_tissue * (1 - on_tissue) + swapped * (1 - swapped)) / len(xy))
    if swapped - on_tissue > max(_MARGIN, 3 * error):
        raise ValueError(
            f"expected the spots of section {sample!r} on tissue; found {on_tissue:.0%} there, and {swapped:.0%} of their "
            "transposed positions; x and y look swapped: obsm['spatial'] holds x (column) first; pass `check=False` "
            "where the positions are right"
        )


def _is_colorless(picture: np.ndarray, xy: np.ndarray) -> bool:
    """Whether a picture has no color at the positions, whatever is drawn in color beside them."""
    column, row = np.minimum(np.floor(xy).astype(int), np.array(picture.shape[1::-1]) - 1).T
    pixels = picture[row, column].astype(np.int16)
    pixels = pixels[pixels.min(axis=1) < _WHITE]
    return len(pixels) >= _FEW and bool((np.ptp(pixels, axis=1) < _TINT).mean() >= _COLORLESS)


def background_and_tissue(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (h, w) that are surely empty background, and pixels that are surely tissue; nothing surely where in doubt.

    The background is the color along the border of the picture: glass, or the dark of a fluorescence picture. Black
    (borders of a scan, pen, folds) and the colors of ink are neither.

    Parameters
    ----------
    picture
        RGB uint8 (h, w, 3).
    """
    from scipy import ndimage

    # One plane a channel: to reduce the last axis of three takes ten times as long.
    planes = np.ascontiguousarray(np.moveaxis(picture, 2, 0), dtype=np.float32)
    light = ndimage.gaussian_filter(planes, (0, 1, 1))
    nothing = np.zeros(light.shape[1:], dtype=bool)
    color = _background(light)
    if color is None:
        return nothing, nothing
    distance = np.abs(light - color[:, None, None]).max(axis=0)
    near = distance[distance < 2 * _TOLERANCE[1]]
    tolerance = float(np.clip(4 * np.median(near), *_TOLERANCE))
    empty, other = distance <= tolerance, distance > 2 * tolerance
    brightness = light.mean(axis=0)
    darker, brighter = brightness < color.mean(), brightness > color.mean()
    if _is_glass(color):
        # Where much is brighter than that, it is no glass.
        if (brighter & other).mean() > 0.05:
            return nothing, nothing
        return empty, other & darker & (light.max(axis=0) > _BLACK) & ~_ink(light, color)
    return empty, other & brighter


def _background(light: np.ndarray) -> np.ndarray | None:
    """Color (3,) of the glass, or of the dark around a fluorescent section, of planes (3, h, w); `None` of neither."""
    black = light.max(axis=0) <= _BLACK
    inner = light
    for axis in (0, 1):  # the black frame of a scan is no part of the picture
        filled = np.flatnonzero(black.mean(axis=1 - axis) < _FRAME)
        if len(filled) and len(filled) >= black.shape[axis] / 2:
            inner = inner.take(np.arange(filled[0], filled[-1] + 1), axis=axis + 1)
    edge = _ring(inner)
    lit = edge[edge.max(axis=1) > _BLACK]
    glass = _dominant(lit) if len(lit) >= len(edge) / 4 else None
    if glass is not None and _is_glass(glass):
        return glass
    dark = _dominant(_ring(light))
    return dark if dark is not None and dark.max() <= _DARK else None


def _is_glass(color: np.ndarray) -> bool:
    return bool(color.min() >= _GLASS and np.ptp(color) <= _GLASS_TINT)


def _ring(light: np.ndarray) -> np.ndarray:
    """Pixels (n, 3) along the border of planes (3, h, w)."""
    width = max(1, round(_RING * min(light.shape[1:])))
    ring = np.ones(light.shape[1:], dtype=bool)
    ring[width:-width, width:-width] = False
    return light[:, ring].T


def _dominant(colors: np.ndarray) -> np.ndarray | None:
    """Color (3,) of more than half of the pixels (n, 3); `None` where there is none."""
    if not len(colors):
        return None
    bins = (colors // 16).astype(np.int64) @ np.array([256, 16, 1])
    center = np.median(colors[bins == np.bincount(bins).argmax()], axis=0)
    around = (np.abs(colors - center) <= 16).all(axis=1)
    return np.median(colors[around], axis=0) if around.mean() > 0.5 else None


def _ink(light: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Dark gray in a picture that has colors, and colors that absorb least where hematoxylin and eosin absorb most."""
    tint = np.ptp(light, axis=0)
    colored = (tint > 20).mean() > 0.01
    density = -np.log(np.clip(light / glass[:, None, None], 1e-3, 1.0))
    red, green, blue = density
    strange = (density.max(axis=0) > 0.25) & ((red > 1.4 * green) | (blue > 1.4 * green))
    return strange | ((light.max(axis=0) <= 110) & (tint <= 20)) if colored else strange


def _mean_at(values: np.ndarray, xy: np.ndarray) -> float:
    """Mean of an image at positions, those outside left out; -inf when more than a tenth is outside."""
    column, row = np.floor(xy).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < values.shape[1]) & (row < values.shape[0])
    return float(values[row[inside], column[inside]].mean()) if inside.mean() >= 0.9 else -np.inf


def positions_are_checked(adata: AnnData, sample: str) -> bool:
    """Whether positions are to be compared with the tissue: unless the reader of the section was told not to."""
    return not section_entry(adata, sample).get("metadata", {}).get(UNCHECKED)
