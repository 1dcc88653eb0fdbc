"""Where the nuclei of sections and slides are: shapes of a SpatialData, or arrays in `uns` of an AnnData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._container import is_spatialdata
from stpredict.slots._keys import distinct, escaped, storable

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

_OUTLINE, _START = "outline", "start"  # vertices of all polygons, and where each polygon begins
_TYPE, _TEXT = "type", ("type", "source_id")


def write_nuclei(data: Container, adata: AnnData | None, key: str, frames: Mapping[str, Any]) -> None:
    """Store the nuclei of sections, a table of polygons each, beside those of other sections.

    In a SpatialData they are shapes named after the section (or `key`, of a slide, where `adata` is `None`).
    """
    if is_spatialdata(data):
        from spatialdata.models import ShapesModel
        from spatialdata.transformations import Identity

        stems = distinct(frames)
        for sample, frame in frames.items():
            name, system = (key, "global") if adata is None else (f"{stems[sample]}_{key}", sample)
            data.shapes[name] = ShapesModel.parse(frame, transformations={system: Identity()})
        return
    assert adata is not None
    found = dict(adata.uns.get(key, {}))
    adata.uns[key] = found | {escaped(sample): _arrays(frame) for sample, frame in frames.items()}


def read_nuclei_of(data: Container, adata: AnnData | None, key: str, sample: str) -> Any:
    """Table of polygons of one section, or of a slide where `adata` is `None`; an error without one."""
    call = "run stp.pp.nuclei first, or correct `key`"
    if is_spatialdata(data):
        names = [key] if adata is None else list(dict.fromkeys([f"{sample}_{key}", f"{storable(sample)}_{key}"]))
        for name in names:
            if name in data.shapes:
                return data.shapes[name]
        raise KeyError(f"expected shapes[{names[0]!r}]; found {sorted(data.shapes)}; {call}")
    assert adata is not None
    found = adata.uns.get(key)
    if not isinstance(found, Mapping) or escaped(sample) not in found:
        there = sorted(found) if isinstance(found, Mapping) else "none"
        raise KeyError(f"expected nuclei of section {sample!r} in uns[{key!r}]; found {there}; {call}")
    return _frame(found[escaped(sample)], f"uns[{key!r}][{sample!r}]")


def _arrays(frame: Any) -> dict[str, np.ndarray]:
    """Columns of a table of polygons, and their outlines, as arrays that every store holds."""
    import shapely

    rings = shapely.get_exterior_ring(frame.geometry.to_numpy())
    columns = {name: frame[name].to_numpy() for name in frame.columns if name != "geometry"}
    for name in set(_TEXT) & set(columns):
        columns[name] = np.asarray(columns[name].astype(str))
    number = shapely.get_num_coordinates(rings)
    start = np.concatenate([[0], np.cumsum(number)]).astype(np.int64)
    return columns | {_OUTLINE: shapely.get_coordinates(rings).astype(np.float32), _START: start}


def _frame(arrays: Mapping[str, Any], where: str) -> Any:
    import geopandas as gpd
    import pandas as pd
    import shapely

    outline, start = np.asarray(arrays.get(_OUTLINE)), np.asarray(arrays.get(_START))
    names = [name for name in arrays if name not in (_OUTLINE, _START)]
    n = len(start) - 1 if start.ndim == 1 else -1
    whole = n >= 0 and outline.ndim == 2 and start[-1] == len(outline) and all(len(arrays[name]) == n for name in names)
    if not whole:
        raise ValueError(f"expected outlines and a value per nucleus in {where}; found others; run stp.pp.nuclei again")
    ring = np.repeat(np.arange(n), np.diff(start))
    geometry = shapely.polygons(shapely.linearrings(outline.astype(np.float64), indices=ring)) if n else []
    columns = {name: np.asarray(arrays[name]) for name in names}
    frame = gpd.GeoDataFrame(columns, geometry=list(geometry))
    if _TYPE in frame:
        frame[_TYPE] = pd.Categorical(frame[_TYPE].astype(str))
    return frame
