"""Nuclei of a whole picture, found chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stpredict.encoders._measure_nuclei import MEASURES, distances, measure_nuclei
from stpredict.encoders._segment_nuclei import BLOCK, REACH_UM, UM_PER_PX, segment_nuclei, stain_densities
from stpredict.io._outlines import outlines

_SEAM_UM = 4.0  # from the border of a chunk, within which both chunks beside it may claim a nucleus
_SAME = 0.25  # of the smaller area; nuclei of two chunks that share more are one


@dataclass(frozen=True)
class Picture:
    """Pixels that are read region by region.

    Attributes
    ----------
    width, height
        Size in pixels.
    um_per_px
        Their scale.
    read
        From left, top, right and bottom to uint8 (bottom - top, right - left, 3).
    """

    width: int
    height: int
    um_per_px: float
    read: Callable[[int, int, int, int], np.ndarray]

    @property
    def step(self) -> float:
        """Pixels per pixel that nuclei are looked for in."""
        return UM_PER_PX / self.um_per_px

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of `UM_PER_PX`."""
        # Whole pixels only: all parts have the same scale, and a pixel the same value in each of them.
        height, width = (max(1, int(length / self.step + 1e-6)) for length in (self.height, self.width))
        return height, width

    def scaled(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """Part of the picture at `UM_PER_PX`: area averages of finer pixels, linear between coarser ones."""
        from PIL import Image

        top, bottom = (min(row * self.step, self.height) for row in rows)
        left, right = (min(column * self.step, self.width) for column in columns)
        around = 2 * np.ceil(max(1.0, self.step))  # what the averages reach for
        low = max(int(left - around), 0), max(int(top - around), 0)
        high = min(int(right + around) + 1, self.width), min(int(bottom + around) + 1, self.height)
        pixels = Image.fromarray(self.read(*low, *high))
        box = (left - low[0], top - low[1], right - low[0], bottom - low[1])
        shape = (columns[1] - columns[0], rows[1] - rows[0])
        return np.asarray(pixels.resize(shape, Image.Resampling.BILINEAR, box=box))


def find_nuclei(
    picture: Picture,
    *,
    chunk_um: float,
    min_area_um2: float,
    max_area_um2: float,
    given: Any = None,
    wanted: Callable[[np.ndarray], bool] | None = None,
    done: Callable[[int], Any] | None = None,
) -> Any:
    """Find and measure the nuclei of a picture, holding one chunk of it at a time.

    Chunks overlap by as much as the segmentation reaches, so that a nucleus is seen whole and in its surroundings in
    the chunk that its center lies in. Where two chunks claim a nucleus at the border between them, one keeps it.

    Parameters
    ----------
    picture
        The picture.
    chunk_um
        Side of a chunk, short of the overlap.
    min_area_um2, max_area_um2
        Areas beyond which something is no nucleus; of given nuclei all are kept.
    given
        GeoDataFrame of polygons in pixels of the picture that are measured, instead of looking for nuclei.
    wanted
        Whether a chunk (left, top, right, bottom in pixels of the picture) is looked at; all are when `None`.
    done
        Called with 1 after each chunk.

    Returns
    -------
    GeoDataFrame in pixels of the picture, ordered from the top: `nucleus_id`, `x`, `y`, measures, distances, and what
    came with given nuclei.
    """
    import geopandas as gpd
    import pandas as pd

    chunk = max(BLOCK, round(chunk_um / UM_PER_PX / BLOCK) * BLOCK)
    find = _Finder(min_area_um2, max_area_um2) if given is None else _Given(given, picture)
    tables, shapes, seams = [], [], []
    for rows, columns in chunks(picture, chunk):
        box = np.array([columns[0], rows[0], columns[1], rows[1]]) * picture.step
        if (wanted is None or wanted(box)) and find.any(rows, columns):
            table, polygons, seam = _in_chunk(picture, find, rows, columns)
            tables.append(table)
            shapes.append(polygons)
            seams.append(seam)
        if done is not None:
            done(1)
    if not tables:
        tables, shapes, seams = [_empty(find)], [np.empty(0, dtype=object)], [np.zeros(0, bool)]
    chunk_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    table, polygons = pd.concat(tables, ignore_index=True), np.concatenate(shapes)
    kept = ~_twice(polygons, chunk_of, np.concatenate(seams))
    table, polygons = table[kept], polygons[kept]
    order = np.lexsort((table["x"].to_numpy(), table["y"].to_numpy()))
    table, polygons = table.iloc[order].reset_index(drop=True), polygons[order]
    apart = distances(table[["x", "y"]].to_numpy() * picture.um_per_px)
    at = table.columns.get_loc(MEASURES[-1]) + 1
    for name, values in reversed(apart.items()):
        table.insert(at, name, values)
    numbers = table.select_dtypes("float64").columns.difference(["x", "y"])
    table = table.astype(dict.fromkeys(numbers, np.float32))
    table.insert(0, "nucleus_id", np.arange(len(table)))
    return gpd.GeoDataFrame(table, geometry=list(polygons))


def chunks(picture: Picture, chunk: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """First and last (exclusive) row and column of every chunk, at `UM_PER_PX`."""
    height, width = picture.size
    for top in range(0, height, chunk):
        for left in range(0, width, chunk):
            yield (top, min(top + chunk, height)), (left, min(left + chunk, width))


class _Finder:
    """Nuclei by segmentation of the picture."""

    reach = int(np.ceil(REACH_UM / UM_PER_PX / BLOCK)) * BLOCK

    def __init__(self, min_area_um2: float, max_area_um2: float) -> None:
        self.areas = {"min_area_um2": min_area_um2, "max_area_um2": max_area_um2}

    def any(self, rows: tuple[int, int], columns: tuple[int, int]) -> bool:
        """Whether there may be nuclei in a chunk."""
        return True

    def __call__(self, pixels: np.ndarray, hematoxylin: np.ndarray, low: np.ndarray, rows: Any, columns: Any) -> Any:
        """Labels (h, w) of a chunk with its surroundings, and what else is known of each nucleus."""
        return segment_nuclei(pixels, hematoxylin, **self.areas), None


class _Given:
    """Nuclei that others have segmented."""

    reach = 64  # pixels, for rings around nuclei and for those that lie partly in the next chunk

    def __init__(self, frame: Any, picture: Picture) -> None:
        import shapely

        self.frame = frame.drop(columns="geometry")
        self.polygons = shapely.transform(frame.geometry.to_numpy(), lambda points: points / picture.step)
        centers = shapely.centroid(self.polygons)
        height, width = picture.size
        # Those whose center lies beyond the picture, or on its very border, belong to the pixel at the border.
        self.column = np.clip(shapely.get_x(centers), 0, width - 0.5)
        self.row = np.clip(shapely.get_y(centers), 0, height - 0.5)

    def _inside(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        down = (self.row >= rows[0]) & (self.row < rows[1])
        return np.flatnonzero(down & (self.column >= columns[0]) & (self.column < columns[1]))

    def any(self, rows: tuple[int, int], columns: tuple[int, int]) -> bool:
        """Whether there are nuclei in a chunk."""
        return len(self._inside(rows, columns)) > 0

    def __call__(self, pixels: np.ndarray, hematoxylin: np.ndarray, low: np.ndarray, rows: Any, columns: Any) -> Any:
        """Labels (h, w) of a chunk with its surroundings, and the numbers of the nuclei."""
        import shapely
        from skimage.draw import polygon

        index = self._inside(rows, columns)
        labels = np.zeros(hematoxylin.shape, np.int32)
        for number, shape in enumerate(self.polygons[index], start=1):
            points = shapely.get_coordinates(shape) - low[::-1] - 0.5
            labels[polygon(points[:, 1], points[:, 0], labels.shape)] = number
        # A nucleus that is smaller than a pixel, or lies beneath others, is measured at its center.
        missing = np.setdiff1d(np.arange(1, len(index) + 1), labels)
        for number in missing:
            at = index[number - 1]
            labels[int(self.row[at] - low[0]), int(self.column[at] - low[1])] = number
        return labels, index


def _in_chunk(
    picture: Picture, find: Any, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Nuclei whose center lies in a chunk or hardly beyond it: measures, polygons, and which the next chunk may claim."""
    import pandas as pd
    import shapely

    size = picture.size
    low = np.array([max(rows[0] - find.reach, 0), max(columns[0] - find.reach, 0)])
    high = np.array([min(rows[1] + find.reach, size[0]), min(columns[1] + find.reach, size[1])])
    pixels = picture.scaled((int(low[0]), int(high[0])), (int(low[1]), int(high[1])))
    stains = stain_densities(pixels)
    labels, index = find(pixels, stains[0], low, rows, columns)
    table = pd.DataFrame(measure_nuclei(labels, stains))
    table["x"] += low[1]
    table["y"] += low[0]
    if index is None:
        inward = np.stack(
            [table["y"] - rows[0], rows[1] - table["y"], table["x"] - columns[0], columns[1] - table["x"]], axis=1
        )  # fmt: skip
        depth = inward.min(axis=1) * UM_PER_PX
        kept = np.flatnonzero(depth > -_SEAM_UM)
        polygons = shapely.transform(_traced(labels, kept + 1), lambda points: (points + low[::-1]) * picture.step)
        table, seam = table.iloc[kept], depth[kept] < _SEAM_UM
    else:
        table = table.reindex(range(len(index)))
        polygons = shapely.transform(find.polygons[index], lambda points: points * picture.step)
        table = _exact(table, find, index)
        table = pd.concat([table, find.frame.iloc[index].reset_index(drop=True)], axis=1)
        seam = np.zeros(len(index), bool)
    table[["x", "y"]] *= picture.step
    return table.reset_index(drop=True), polygons, seam


def _exact(table: Any, find: _Given, index: np.ndarray) -> Any:
    """Size and place of given nuclei from their polygons; pixels are coarser."""
    import shapely

    polygons = find.polygons[index]
    table["x"], table["y"] = shapely.get_x(shapely.centroid(polygons)), shapely.get_y(shapely.centroid(polygons))
    table["area_um2"] = shapely.area(polygons) * UM_PER_PX**2
    table["perimeter_um"] = shapely.length(polygons) * UM_PER_PX
    table["circularity"] = np.minimum(4 * np.pi * table["area_um2"] / table["perimeter_um"] ** 2, 1)
    return table.fillna(0.0)


def _traced(labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Polygons of some labels."""
    chosen = np.zeros(int(labels.max()) + 1, np.int32)
    chosen[numbers] = numbers
    found, polygons = outlines(chosen[labels])
    assert len(found) == len(numbers)
    return polygons


def _twice(polygons: np.ndarray, chunk_of: np.ndarray, seam: np.ndarray) -> np.ndarray:
    """Which nuclei another chunk has as well (n,): of those that overlap, the one that overlaps earlier ones."""
    import shapely

    again = np.zeros(len(polygons), bool)
    rows = np.flatnonzero(seam)
    if len(rows) < 2:
        return again
    first, second = shapely.STRtree(polygons[rows]).query(polygons[rows], predicate="intersects")
    first, second = rows[first], rows[second]
    ahead = (first < second) & (chunk_of[first] != chunk_of[second])
    first, second = first[ahead], second[ahead]
    shared = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    smaller = np.minimum(shapely.area(polygons[first]), shapely.area(polygons[second]))
    same = shared > _SAME * smaller
    for earlier, later in sorted(zip(first[same].tolist(), second[same].tolist(), strict=True)):
        if not again[earlier]:
            again[later] = True
    return again


def _empty(find: Any) -> Any:
    import pandas as pd

    table = pd.DataFrame({name: np.zeros(0) for name in ("x", "y", *MEASURES)})
    if isinstance(find, _Given):
        table = pd.concat([table, find.frame.iloc[:0]], axis=1)
    return table
