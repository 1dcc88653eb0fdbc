"""Where the nuclei of sections and slides are: shapes of a SpatialData, or arrays in `uns` of an AnnData."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.encoders._measure_nuclei import DISTANCES, MEASURES
from stpredict.slots._container import is_spatialdata
from stpredict.slots._keys import Key, distinct, escaped, storable
from stpredict.slots._provenance import read_record, records

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

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
            if len(frame):
                data.shapes[name] = ShapesModel.parse(frame, transformations={system: Identity()})
            elif name in data.shapes:  # SpatialData has no shapes without any; the record says that there are none
                del data.shapes[name]
        return
    assert adata is not None
    found = dict(adata.uns.get(key, {}))
    adata.uns[key] = found | {escaped(sample): nuclei_arrays(frame) for sample, frame in frames.items()}


def nuclei_keys(adata: AnnData) -> list[str]:
    """Names of nuclei that :func:`stpredict.pp.nuclei` has recorded in a table, wherever they are."""
    return [key for key, entry in records(adata).items() if isinstance(entry, Mapping) and "n_nuclei" in entry]


def sections_with_nuclei(adata: AnnData, key: str, samples: Iterable[str]) -> list[str]:
    """Sections among some whose nuclei are in `uns` of a table."""
    found = adata.uns.get(key)
    return [name for name in samples if isinstance(found, Mapping) and escaped(name) in found]


def nuclei_shapes(data: SpatialData, adata: AnnData | None, key: str, sample: str) -> Any:
    """Shapes of the nuclei of one section, or of a slide where `adata` is `None`; `None` where nobody has looked for any."""
    names = [key] if adata is None else [f"{sample}_{key}", f"{storable(sample)}_{key}"]
    found = next((data.shapes[name] for name in names if name in data.shapes), None)
    record = data.attrs.get(Key.UNS, {}).get(key) if adata is None else read_record(adata, key)
    number = ((record or {}).get("n_nuclei") or {}).get(sample)
    return _nothing() if found is None and number == 0 else found


def _nothing() -> Any:
    """Table of no nuclei."""
    import geopandas as gpd

    columns = {"nucleus_id": np.zeros(0, dtype=np.int64)} | {
        name: np.zeros(0) for name in ("x", "y", *MEASURES, *DISTANCES)
    }
    return gpd.GeoDataFrame(columns, geometry=[])


def read_nuclei_of(data: Container, adata: AnnData | None, key: str, sample: str, *, outlines: bool = True) -> Any:
    """Table of polygons of one section, or of a slide where `adata` is `None`; an error without one.

    Polygons are made of arrays; without `outlines` what is in arrays comes as a table of numbers, which costs nothing.
    """
    call = "run stp.pp.nuclei first, or correct `key`"
    if is_spatialdata(data):
        shapes = nuclei_shapes(data, adata, key, sample)
        if shapes is None:
            name = key if adata is None else f"{sample}_{key}"
            raise KeyError(f"expected shapes[{name!r}]; found {sorted(data.shapes)}; {call}")
        return shapes
    assert adata is not None
    found = adata.uns.get(key)
    if not isinstance(found, Mapping) or escaped(sample) not in found:
        there = sorted(found) if isinstance(found, Mapping) else "none"
        raise KeyError(f"expected nuclei of section {sample!r} in uns[{key!r}]; found {there}; {call}")
    return _frame(found[escaped(sample)], f"uns[{key!r}][{sample!r}]", outlines=outlines)


def nuclei_arrays(frame: Any) -> dict[str, np.ndarray]:
    """Columns of a table of polygons, and their outlines, as arrays that every store holds."""
    import shapely

    rings = shapely.get_exterior_ring(frame.geometry.to_numpy())
    columns = {name: frame[name].to_numpy() for name in frame.columns if name != "geometry"}
    for name in set(_TEXT) & set(columns):
        columns[name] = np.asarray(columns[name].astype(str))
    number = shapely.get_num_coordinates(rings)
    start = np.concatenate([[0], np.cumsum(number)]).astype(np.int64)
    return columns | {_OUTLINE: shapely.get_coordinates(rings).astype(np.float32), _START: start}


def _frame(arrays: Mapping[str, Any], where: str, *, outlines: bool = True) -> Any:
    import geopandas as gpd
    import pandas as pd
    import shapely

    outline, start = np.asarray(arrays.get(_OUTLINE)), np.asarray(arrays.get(_START))
    names = [name for name in arrays if name not in (_OUTLINE, _START)]
    n = len(start) - 1 if start.ndim == 1 else -1
    whole = n >= 0 and outline.ndim == 2 and start[-1] == len(outline) and all(len(arrays[name]) == n for name in names)
    if not whole:
        raise ValueError(f"expected outlines and a value per nucleus in {where}; found others; run stp.pp.nuclei again")
    columns = {name: np.asarray(arrays[name]) for name in names}
    if outlines:
        ring = np.repeat(np.arange(n), np.diff(start))
        geometry = shapely.polygons(shapely.linearrings(outline.astype(np.float64), indices=ring)) if n else []
        frame = gpd.GeoDataFrame(columns, geometry=list(geometry))
    else:
        frame = pd.DataFrame(columns)
    if _TYPE in frame:
        frame[_TYPE] = pd.Categorical(frame[_TYPE].astype(str))
    return frame
