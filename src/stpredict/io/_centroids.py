"""Centers of the elements of a SpatialData that a table annotates: circles, polygons or labels of a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

_BAND_PX = 16_000_000  # pixels of a mask that are looked at together


def centroids(
    sdata: SpatialData, regions: np.ndarray, instances: np.ndarray, coordinate_system: str | None
) -> tuple[np.ndarray, dict[str, float]]:
    """Centers (n, 2) of what the rows of a table annotate, and the median diameter of the circles or labels per region.

    Parameters
    ----------
    sdata
        Object with the elements.
    regions, instances
        (n,) name of the element of each row, and the name of the shape or the number of the label in it.
    coordinate_system
        Coordinate system of the centers; the coordinates as they are stored when `None`. Those of labels are pixels, the
        first of which has its center at 0.5.
    """
    xy, diameters = np.empty((len(regions), 2)), {}
    for region in dict.fromkeys(regions):
        if region in sdata.shapes:
            index, centers, diameter = _of_shapes(sdata.shapes[region], coordinate_system)
        elif region in sdata.labels:
            index, centers, diameter = _of_labels(sdata.labels[region], coordinate_system)
        else:
            raise KeyError(
                f"expected shapes {region!r} or labels of that name, which the table annotates; found the shapes "
                f"{sorted(sdata.shapes)} and the labels {sorted(sdata.labels)}"
            )
        rows = np.flatnonzero(regions == region)
        place = _locate(index, instances[rows])
        if (place < 0).any():
            raise ValueError(
                f"expected a shape or label in {region!r} for every row of the table; found none for "
                f"{few(instances[rows][place < 0])}"
            )
        xy[rows] = centers[place]
        if diameter:
            diameters[region] = diameter
    return xy, diameters


def _of_shapes(shapes: Any, coordinate_system: str | None) -> tuple[pd.Index, np.ndarray, float | None]:
    from spatialdata import transform

    if coordinate_system is not None:
        shapes = transform(shapes, to_coordinate_system=coordinate_system)
    centers = shapes.geometry.centroid
    diameter = 2 * float(shapes["radius"].median()) if "radius" in shapes else None
    return shapes.index, np.column_stack([centers.x, centers.y]), diameter


def _of_labels(labels: Any, coordinate_system: str | None) -> tuple[pd.Index, np.ndarray, float | None]:
    """Centers of the labels of a mask in one pass over bands of its rows; the largest level of a pyramid counts."""
    import pandas as pd
    from spatialdata.transformations import get_transformation

    mask = next(iter(labels["scale0"].values())) if hasattr(labels, "groups") else labels
    if set(mask.dims) != {"y", "x"}:
        raise ValueError(
            f"expected labels with the dimensions y and x; found {tuple(mask.dims)}; project them to a plane"
        )
    mask = mask.transpose("y", "x")
    height, width = mask.shape
    step = max(1, _BAND_PX // max(width, 1))
    parts = []
    for top in range(0, height, step):
        band = np.asarray(mask[top : top + step].data)
        if band.dtype.kind not in "iu":
            raise ValueError(f"expected labels that are whole numbers; found {band.dtype}")
        if band.min() >= 0 and band.max() < _BAND_PX:  # counting is much faster than sorting, but needs small numbers
            code = band.ravel().astype(np.int64)
            found = np.arange(int(code.max()) + 1)
        else:
            found, code = np.unique(band.ravel(), return_inverse=True)
        col = np.broadcast_to(np.arange(width) + 0.5, band.shape).ravel()
        row = np.broadcast_to(np.arange(top, top + len(band))[:, None] + 0.5, band.shape).ravel()
        n = np.bincount(code)
        part = pd.DataFrame({"n": n, "x": np.bincount(code, col), "y": np.bincount(code, row)}, index=found)
        parts.append(part[n > 0])
    table = pd.concat(parts).groupby(level=0).sum()
    table = table[table.index != 0]  # the background
    centers = table[["x", "y"]].to_numpy() / table[["n"]].to_numpy()
    scale = 1.0
    if coordinate_system is not None:
        places = get_transformation(labels, get_all=True)
        if coordinate_system not in places:
            raise ValueError(f"expected the labels in the coordinate system {coordinate_system!r}; found {few(places)}")
        matrix = places[coordinate_system].to_affine_matrix(("x", "y"), ("x", "y"))
        centers = centers @ matrix[:2, :2].T + matrix[:2, 2]
        scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    diameter = 2 * float(np.sqrt(table["n"].median() / np.pi)) * scale if len(table) else None
    return table.index, centers, diameter


def _locate(index: pd.Index, instances: np.ndarray) -> np.ndarray:
    """Places (n,) of names in an index, -1 where there is none; 7, 7.0 and "7" are one name."""
    import pandas as pd

    place = index.get_indexer(pd.Index(instances))
    if (place >= 0).all():
        return place
    names = pd.Index([_text(name) for name in index])
    return names.get_indexer(pd.Index([_text(name) for name in instances])) if names.is_unique else place


def _text(name: Any) -> str:
    if isinstance(name, bytes):
        return name.decode("utf-8", "replace")
    return str(int(name)) if isinstance(name, float | np.floating) and float(name).is_integer() else str(name)
