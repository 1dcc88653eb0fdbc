"""Where tiles of a slide may lie, how much tissue is in each, and their shapes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from stpredict.pp._tissue_share import area_means, raster

_RASTER = 16  # pixels of the tissue raster across a tile
_MAX_RASTER = 2**25  # pixels of that raster in all


def check_counts(**counts: int | None) -> None:
    """Raise where one of several is not a positive whole number; `max_tiles` may be `None`, and `min_tiles` 0."""
    for name, value in counts.items():
        if value is None and name == "max_tiles":
            continue
        if value is None or isinstance(value, bool) or int(value) != value or value < (0 if name == "min_tiles" else 1):
            raise ValueError(f"expected {name} to be a positive whole number; found {value!r}")


class Layout(NamedTuple):
    """Where tiles may lie: side and step in pixels, corner (x, y) of the first, and rows and columns of all."""

    side: float
    step: float
    corner: tuple[float, float] = (0.0, 0.0)
    cells: list[int] | None = None

    def top_left(self, position: np.ndarray) -> np.ndarray:
        """X and y of the corners (n, 2) of tiles at rows and columns (n, 2)."""
        return position[:, ::-1] * self.step + self.corner


def covering(bounds: np.ndarray, grid: tuple[int, int], segments: int) -> Layout:
    """Tiles that cover a box (left, top, right, bottom) in so many rows and columns, or columns and rows."""
    root = math.isqrt(int(segments))
    if root**2 != segments:
        raise ValueError(f"expected a square number of segments, to keep the ratio of the grid; found {segments}")
    if len(grid) != 2:
        raise ValueError(f"expected grid as two numbers of tiles, such as (80, 64); found {grid!r}")
    check_counts(**{"grid[0]": grid[0], "grid[1]": grid[1]})
    low, high = bounds[:2], bounds[2:]
    width, height = high - low
    options = [(max(height / rows, width / cols) / root, rows, cols) for rows, cols in (grid, grid[::-1])]
    side, rows, cols = min(options, key=lambda option: option[0])
    cells = [int(rows) * root, int(cols) * root]
    left, top = (low + high - side * np.array(cells[::-1])) / 2
    return Layout(float(side), float(side), (float(left), float(top)), cells)


def candidates(
    tissue: Any, size: tuple[int, int], layout: Layout, max_background: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lattice positions (n, 2) as row and column of tiles with enough tissue, and their share of tissue (n,)."""
    width, height = size
    side, step = layout.side, layout.step
    # Tiles reach over the border as long as their center is on the slide; what is beyond it is background.
    rows, columns = layout.cells or (max(1, int(np.ceil((length - side / 2) / step))) for length in (height, width))
    scale = min(1.0, _RASTER / side)
    scale = min(scale, np.sqrt(_MAX_RASTER / (width * height)))
    mask = raster(tissue.geometry.to_numpy(), size, scale)
    left, top = (np.arange(n) * step + start for n, start in zip((columns, rows), layout.corner, strict=True))
    fraction = area_means(mask, top * scale, left * scale, side * scale)
    position = np.argwhere(fraction >= 1 - max_background - 1e-9)
    return position, fraction[position[:, 0], position[:, 1]]


def tile_shapes(position: np.ndarray, fraction: np.ndarray, layout: Layout, tissue: Any) -> Any:
    """Table of tiles."""
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    x, y = layout.top_left(position).T
    side = layout.side
    frame = gpd.GeoDataFrame(
        {
            "tile_id": np.arange(len(position)),
            "x": x,
            "y": y,
            "tissue_id": _tissue_ids(tissue, x + side / 2, y + side / 2),
            "array_row": position[:, 0],
            "array_col": position[:, 1],
            "tissue_fraction": np.clip(fraction, 0, 1).astype(np.float32),
            "geometry": shapely.box(x, y, x + side, y + side),
        }
    )
    return ShapesModel.parse(frame, transformations={"global": Identity()})


def _tissue_ids(tissue: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Piece of tissue that lies nearest to the center of each tile (n,)."""
    import shapely

    names = tissue["tissue_id"].to_numpy() if "tissue_id" in tissue else np.arange(len(tissue))
    if not len(x) or not len(tissue):
        return np.zeros(len(x), dtype=np.int64)
    return names[shapely.STRtree(tissue.geometry.to_numpy()).nearest(shapely.points(x, y))]
