"""Arrangement of tissue on a synthetic slide: how much of each class, and where it lies. Arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stpredict.datasets._tissue import CLASSES, resize, smooth_noise

TILE_UM = 128.0
# Share of tumor along x, as a function of the position within the tissue (0 left, 1 right).
GRADIENTS = {"x": ((0.0, 1.0), (0.05, 0.9)), "ridge": ((0.0, 0.6, 1.0), (0.05, 0.9, 0.05))}
_PRIOR = np.array([1.7, 1.5, 0.9, 0.45])  # Dirichlet of the classes between patients
_WITHIN = 40.0  # concentration of the slides of a patient around the patient
_TUMOR, _STROMA, _IMMUNE, _FAT = range(len(CLASSES))
_BOTH = 0.1  # share of a tile above which a class counts as present


@dataclass(frozen=True)
class Habit:
    """How the tissue of a patient is mixed and arranged.

    Attributes
    ----------
    shares
        (4,) preferred share of each class.
    nest_um
        Width of the tumor nests (of the kernel of their random field).
    infiltration
        Share of the immune cells that lies inside the tumor.
    attraction
        Place of the other immune cells: at the margin of the tumor (1), anywhere (0), or away from it (negative).
    """

    shares: np.ndarray
    nest_um: float
    infiltration: float
    attraction: float


def draw_habit(rng: np.random.Generator) -> Habit:
    """Draw the tissue preferences of a patient."""
    shares = rng.dirichlet(_PRIOR)
    nest_um = float(np.exp(rng.uniform(np.log(45), np.log(220))))
    infiltration = float(rng.beta(0.8, 1.1))
    return Habit(shares, nest_um, infiltration, float(rng.uniform(-0.7, 1)))


def vary_habit(habit: Habit, rng: np.random.Generator) -> Habit:
    """Draw the shares of one slide around those of its patient."""
    return replace(habit, shares=rng.dirichlet(habit.shares * _WITHIN + 0.05))


def arrange(
    tissue: np.ndarray,
    step_um: float,
    side_um: float,
    habit: Habit,
    rng: np.random.Generator,
    gradient: str | None = None,
) -> np.ndarray:
    """Place the classes within a tissue mask, in the shares that `habit` asks for.

    Parameters
    ----------
    tissue
        (h, w) mask on a grid of `step_um`.
    side_um
        Width of the tissue, which limits the width of its regions.
    gradient
        Key of `GRADIENTS`: the share of tumor then follows x alone, whatever `habit` says.

    Returns
    -------
    (h, w) int8, index into `CLASSES`, -1 on bare glass.
    """
    classes = np.where(tissue, np.int8(_STROMA), np.int8(-1))
    shape, shares = (tissue.shape[0], tissue.shape[1]), habit.shares / habit.shares.sum()
    region = min(200.0, 0.14 * side_um) / step_um

    if gradient is not None:
        tumor = _along_x(smooth_noise(shape, 30 / step_um, rng), tissue, GRADIENTS[gradient], step_um)
        classes[tumor] = _TUMOR
        rest = shares[1:] / max(shares[1:].sum(), 1e-9)
        free = tissue & ~tumor
        fat = _highest(smooth_noise(shape, 40 / step_um, rng), free, rest[_FAT - 1])
        classes[fat] = _FAT
        free &= ~fat
        immune = rest[_IMMUNE - 1] / max(1 - rest[_FAT - 1], 1e-9)
        classes[_highest(smooth_noise(shape, 35 / step_um, rng), free, immune)] = _IMMUNE
        return classes

    fat = _highest(
        smooth_noise(shape, region, rng) + 0.2 * smooth_noise(shape, 40 / step_um, rng), tissue, shares[_FAT]
    )
    classes[fat] = _FAT
    free = tissue & ~fat
    left = 1 - shares[_FAT]
    inner = min(habit.infiltration * shares[_IMMUNE], 0.8 * shares[_TUMOR])
    nest = min(habit.nest_um, 0.14 * side_um) / step_um
    field = smooth_noise(shape, nest, rng) + 0.35 * smooth_noise(shape, region, rng)
    tumor = _highest(field, free, (shares[_TUMOR] + inner) / left)
    classes[tumor] = _TUMOR
    inside = _highest(smooth_noise(shape, 26 / step_um, rng), tumor, inner / max(shares[_TUMOR] + inner, 1e-9))
    classes[inside] = _IMMUNE
    free &= ~tumor
    left -= shares[_TUMOR] + inner
    near = -2.5 * habit.attraction * np.minimum(_distance_um(tumor, step_um) / 60, 3)
    outer = _highest(near + smooth_noise(shape, 42 / step_um, rng), free, (shares[_IMMUNE] - inner) / max(left, 1e-9))
    classes[outer] = _IMMUNE
    return classes


def _highest(score: np.ndarray, among: np.ndarray, share: float) -> np.ndarray:
    """Mask of the given share of `among` where the score is highest (quantile of every third row and column)."""
    if share <= 0 or not among.any():
        return np.zeros_like(among)
    sample = score[::3, ::3][among[::3, ::3]]
    if share >= 1 or sample.size == 0:
        return among.copy()
    return among & (score > np.quantile(sample, 1 - share))


def _along_x(
    score: np.ndarray, among: np.ndarray, course: tuple[tuple[float, ...], tuple[float, ...]], step_um: float
) -> np.ndarray:
    """Mask of the places of highest score whose share of `among` follows a course over its width.

    Thresholds are quantiles within strips of a tile's width, so that the share follows the course without chance.
    """
    columns = np.flatnonzero(among.any(axis=0))
    first, last = int(columns[0]), int(columns[-1])
    half = max(1, round(TILE_UM / 2 / step_um))
    centers = np.linspace(first, last, max(2, 2 * (last - first) // half))
    target_share = np.interp((centers - first) / max(last - first, 1), *course)
    thresholds = []
    for center, share in zip(centers, target_share, strict=True):
        # Near the ends the strip is cut on both sides, so that its mean position stays.
        reach = max(8, min(half, int(center) - first, last - int(center)))
        strip = slice(max(0, int(center) - reach), int(center) + reach + 1)
        thresholds.append(np.quantile(score[::2, strip][among[::2, strip]], 1 - share))
    return among & (score > np.interp(np.arange(score.shape[1]), centers, thresholds))


def _distance_um(mask: np.ndarray, step_um: float) -> np.ndarray:
    """Distance of each grid point to the mask in µm, on few points since it is smooth."""
    from scipy.ndimage import distance_transform_edt

    coarse = 4
    if not mask[::coarse, ::coarse].any():
        return np.full(mask.shape, np.float32(1e3))
    distance = distance_transform_edt(~mask[::coarse, ::coarse]).astype(np.float32) * (coarse * step_um)
    return resize(np.pad(distance, ((0, 1), (0, 1)), mode="edge"), (mask.shape[0], mask.shape[1]), 1 / coarse)


def composition_of_tiles(
    classes: np.ndarray, step_um: float, size_um: tuple[float, float], tile_um: float = TILE_UM
) -> np.ndarray:
    """Share of the area of each tile that each class covers.

    Parameters
    ----------
    classes
        (h, w) index into `CLASSES`, -1 on bare glass.
    size_um
        Width and height of the image.

    Returns
    -------
    (rows, columns, 4) float32 on a lattice that starts at the top left corner of the image and covers all of it. What
    lies beyond the image counts as glass.
    """
    n_columns, n_rows = (int(np.ceil(length / tile_um)) for length in size_um)
    row, column = (
        np.minimum(((np.arange(length) + 0.5) * step_um / tile_um).astype(int), n - 1)
        for length, n in zip(classes.shape, (n_rows, n_columns), strict=True)
    )
    row[(np.arange(len(row)) + 0.5) * step_um > n_rows * tile_um] = n_rows  # a spare tile, cut off below
    column[(np.arange(len(column)) + 0.5) * step_um > n_columns * tile_um] = n_columns
    index = (row[:, None] * (n_columns + 1) + column[None, :]) * (len(CLASSES) + 1) + classes + 1
    counts = np.bincount(index.ravel(), minlength=(n_rows + 1) * (n_columns + 1) * (len(CLASSES) + 1))
    counts = counts.reshape(n_rows + 1, n_columns + 1, len(CLASSES) + 1)[:n_rows, :n_columns, 1:]
    per_side = tile_um / step_um
    height = _extent(row, n_rows, per_side)
    width = _extent(column, n_columns, per_side)
    return (counts / (height[:, None, None] * width[None, :, None])).astype(np.float32)


def _extent(index: np.ndarray, n: int, full: float) -> np.ndarray:
    """Grid points per tile along one axis; that of a whole tile for the last one."""
    extent = np.bincount(index, minlength=n)[:n].astype(float)
    extent[-1] = max(extent[-1], full)
    return extent


def core_of_tiles(composition: np.ndarray) -> np.ndarray:
    """Depth of each tile in a tumor nest: 0 where tumor fills at most half of the tissue of 3 × 3 tiles, 1 where all.

    Parameters
    ----------
    composition
        (rows, columns, 4) shares of the area.

    Returns
    -------
    (rows, columns) in 0–1.
    """
    from scipy.ndimage import uniform_filter

    tissue = uniform_filter(composition.sum(axis=-1, dtype=float), 3, mode="constant")
    tumor = uniform_filter(composition[..., _TUMOR].astype(float), 3, mode="constant")
    return np.clip(2 * tumor / np.maximum(tissue, 1e-6) - 1, 0, 1)


def contact_of_slide(composition: np.ndarray) -> float:
    """Share of the tissue in tiles that hold both tumor and immune infiltrate (each on a tenth of the tile or more)."""
    tissue = composition.sum(axis=-1)
    holds_both = (composition[..., _TUMOR] >= _BOTH) & (composition[..., _IMMUNE] >= _BOTH)
    return float(tissue[holds_both].sum() / max(tissue.sum(), 1e-9))
