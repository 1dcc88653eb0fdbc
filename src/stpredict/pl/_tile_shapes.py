"""Tiles, bins and spots as areas that meet and do not overlap: squares or hexagons, and circles off any lattice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpredict.pl._style import LIGHT_GRAY, Section, draw_spots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import Collection

_RASTERIZE_FROM = 2000  # tiles; more make a vector file that no viewer opens
_REGULAR = 0.95  # of the usual distance to the nearest neighbor: where some are closer, areas would overlap
_RING = 1.25  # pitches; the diagonal of a square is 1.41 away, the second ring of a hexagonal lattice 1.73
_HEX = 5  # neighbors at a pitch, from which on a lattice is hexagonal: inner points have 6, on a square lattice 4


@dataclass(frozen=True)
class TileShape:
    """Outline (k, 2) of a tile around its center; `None` for positions that are on no lattice."""

    outline: np.ndarray | None


def tile_shape(section: Section) -> TileShape:
    """The area of a tile on the lattice of a section, turned as the lattice is."""
    from scipy.spatial import KDTree

    xy = section.xy
    if len(xy) < 2:
        return TileShape(_polygon(4, section.diameter, 0.0))
    distance, index = KDTree(xy).query(xy, k=min(7, len(xy)))
    nearest = distance[:, 1]
    pitch = float(nearest.min())
    if pitch < _REGULAR * float(np.median(nearest)) or pitch == 0:
        return TileShape(None)
    near = (distance[:, 1:] < _RING * pitch) & np.isfinite(distance[:, 1:])
    sides = 6 if np.quantile(near.sum(axis=1), 0.75) >= _HEX else 4
    step = xy[index[:, 1:]] - xy[:, None]
    angle = np.arctan2(step[..., 1], step[..., 0])[near]
    turned = float(np.angle(np.exp(1j * sides * angle).mean()) / sides)
    if abs(turned) < np.deg2rad(0.5):
        turned = 0.0
    return TileShape(_polygon(sides, pitch, turned))


def _polygon(sides: int, width: float, turned: float) -> np.ndarray:
    """Corners of a regular polygon whose sides are `width` apart, with a side facing the angle `turned`."""
    angle = turned + np.pi * (2 * np.arange(sides) + 1) / sides
    corners: np.ndarray = width / 2 / np.cos(np.pi / sides) * np.column_stack([np.cos(angle), np.sin(angle)])
    return corners


def draw_tiles(
    ax: Axes,
    section: Section,
    shape: TileShape,
    values: np.ndarray,
    *,
    cmap: str,
    limits: tuple[float, float],
    opacity: float,
    flat: str | None = None,
) -> Collection:
    """Draw the tiles of a section in one artist; NaN is light gray. With `flat` all others have this one color."""
    import matplotlib as mpl
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import Normalize

    finite = np.isfinite(values)
    colors = np.where(finite, flat, LIGHT_GRAY) if flat is not None else None
    if shape.outline is None:
        return draw_spots(
            ax, section, values=None if flat is not None else values, colors=colors, cmap=cmap,
            norm=Normalize(*limits), alpha=opacity,
        )  # fmt: skip
    # Without smoothed edges neighbors meet without a seam.
    tiles = PolyCollection(
        list(section.xy[:, None] + shape.outline), linewidths=0, antialiaseds=False, alpha=opacity, zorder=2,
        rasterized=len(values) >= _RASTERIZE_FROM,
    )  # fmt: skip
    if colors is not None:
        tiles.set_facecolor(list(colors))
    else:
        tiles.set_cmap(mpl.colormaps[cmap].with_extremes(bad=LIGHT_GRAY))
        tiles.set_norm(Normalize(*limits))
        tiles.set_array(np.ma.masked_invalid(values))
    ax.add_collection(tiles, autolim=False)
    return tiles
