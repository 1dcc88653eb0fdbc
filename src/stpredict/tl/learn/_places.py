"""Spots of a section on the places of its dense map: what is under them, and what a head says of all places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._disks import disk_offsets, disk_operator
from stpredict.core._validate import check_finite, check_positive, few
from stpredict.slots._content import MADE_BY
from stpredict.slots._dense_map import DenseMap
from stpredict.slots._marks import UNKNOWN
from stpredict.slots._positions import positions_of
from stpredict.slots._sections import microns_per_pixel, section_entry
from stpredict.tl.learn.inputs._origin import record_seen

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csc_array

    from stpredict.slots._container import Container
    from stpredict.training._disks import Disks

_MADE_BY = MADE_BY | {"color"}  # of these one stands in the record of a map of features that somebody made
_APART = 0.01  # relative difference of two scales that are the same


@dataclass(frozen=True)
class Spots:
    """The spots of a section on its map.

    Attributes
    ----------
    name
        Name of the section.
    dense
        Its map.
    rows
        (n,) rows of the table.
    operator
        (n, rows * columns) means over the disks of the spots; `None` for a section without any in the table.
    diameter_um
        Diameter of a spot.
    n_places
        Places of a whole disk.
    positions_um
        (n, 2) centers in µm.
    """

    name: str
    dense: DenseMap
    rows: np.ndarray
    operator: csc_array | None
    diameter_um: float
    n_places: int
    positions_um: np.ndarray

    def blocks(self, chunk: int) -> Iterator[tuple[int, int, np.ndarray, csc_array | None]]:
        """First and last row, features (m, d) of about `chunk` places in whole rows, and their part of the operator."""
        n_rows, n_columns, _ = self.dense.shape
        step = rows_at_once(self.dense.shape, chunk)
        for top in range(0, n_rows, step):
            bottom = min(top + step, n_rows)
            values = self.dense.rows(top, bottom).reshape(-1, self.dense.shape[2])
            part = None if self.operator is None else self.operator[:, top * n_columns : bottom * n_columns]
            yield top, bottom, values, part

    def disks(self, code: int, chunk: int, *, places: bool) -> Disks:
        """What is under the spots, in one pass over the map; with the features of single places where they are asked for."""
        from scipy.sparse import hstack

        from stpredict.training._disks import Disks

        n, d = len(self.rows), self.dense.shape[2]
        mean, square = np.zeros((n, d)), np.zeros((n, d))
        kept, weights = [], []
        for _, _, values, part in self.blocks(chunk):
            assert part is not None  # there are spots
            under = np.flatnonzero(np.diff(part.indptr))
            if not len(under):
                continue
            found, some = values[under], part[:, under]
            check_finite(found, f"features under the spots of section {self.name!r}", "leave these spots out")
            double = found.astype(np.float64)
            mean += some @ double
            square += some @ double**2
            if places:
                kept.append(found)
                weights.append(some)
        section = np.full(n, code, dtype=np.int64)
        if not places:
            return Disks(mean, square, section, self.positions_um)
        return Disks(mean, square, section, self.positions_um, np.concatenate(kept), hstack(weights, format="csr"))


def rows_at_once(shape: tuple[int, int, int], chunk: int) -> int:
    """Rows of a map that hold about `chunk` places, at least one."""
    return max(1, min(shape[0], chunk // shape[1]))


def spots_on(adata: AnnData, sample: str, dense: DenseMap, rows: np.ndarray, diameter_um: float | None) -> Spots:
    """Lay the spots of a section on its map.

    Raises
    ------
    ValueError
        When the diameter of the spots is not known, or centers of spots are not on the map.
    """
    scale = dense.microns_per_pixel
    assert scale is not None  # filled in before
    diameter = spot_diameter_um(adata, sample, scale) if diameter_um is None else diameter_um
    if diameter is None:
        raise ValueError(
            f"expected the diameter of the spots of section {sample!r} in uns['spatial'][{sample!r}]['scalefactors']"
            "['spot_diameter_fullres']; found none; pass `diameter_um=`"
        )
    radius = diameter / 2 / dense.microns
    if not len(rows):
        return Spots(sample, dense, rows, None, diameter, len(disk_offsets(radius)), np.zeros((0, 2)))
    xy = positions_of(adata)[rows]
    check_finite(xy, f"positions of section {sample!r}", "drop these spots or correct their positions")
    place = dense.places(xy)
    beyond = (place < 0).any(axis=1) | (place >= dense.shape[:2]).any(axis=1)
    if beyond.any():
        raise ValueError(
            f"expected the spots of section {sample!r} on its map of {dense.shape[0]} rows (y) and {dense.shape[1]} columns "
            f"(x); found {int(beyond.sum())} of {len(rows)} beyond it; are x and y exchanged in the map, or its origin or µm "
            "others? Leave spots out that it does not cover"
        )
    operator = disk_operator(place, radius, dense.shape[:2]).tocsc()
    return Spots(sample, dense, rows, operator, diameter, len(disk_offsets(radius)), xy * scale)


def spot_diameter_um(adata: AnnData, sample: str, scale: float) -> float | None:
    """Diameter of the spots of a section in µm; `None` where it is not known."""
    recorded = section_entry(adata, sample).get("scalefactors", {}).get("spot_diameter_fullres")
    return None if recorded is None else check_positive(float(recorded), "spot_diameter_fullres") * scale


def find_maps(
    data: Container,
    adata: AnnData,
    features: Any,
    microns: float | None,
    sample_key: str,
    table_key: str,
    progress: bool,
) -> dict[str, DenseMap]:
    """The maps that a user means, by section, with their µm per pixel and places of the size that was asked for."""
    from stpredict.io._dense_files import read_dense

    names = list(dict.fromkeys(adata.obs[sample_key].astype(str)))
    found: Mapping[str, Any]
    if isinstance(features, Path) or (isinstance(features, str) and _is_store(features)):
        found = read_dense(features)
    elif isinstance(features, DenseMap):
        if len(names) != 1:
            raise ValueError(f"expected a mapping of maps by section for {len(names)} sections; found one map")
        found = {names[0]: features}
    elif isinstance(features, Mapping):
        found = {str(name): dense for name, dense in features.items()}
    else:
        from stpredict.pp._dense_features import dense_features

        size = 8.0 if microns is None else microns
        options: dict[str, Any] = {"progress": progress, "sample_key": sample_key, "table_key": table_key}
        found = dense_features(data, features, size, **options)
    if not found:
        raise ValueError("expected the map of at least one section; found none; run stp.pp.dense_features")
    return {name: _prepared(adata, name, dense, name in names, microns) for name, dense in found.items()}


def _is_store(name: str) -> bool:
    """Whether text is a path rather than the name of an encoder."""
    return Path(name).is_dir() or name.endswith(".zarr")


def _prepared(adata: AnnData, sample: str, dense: Any, known: bool, microns: float | None) -> DenseMap:
    if not isinstance(dense, DenseMap):
        raise TypeError(
            f"expected the map of section {sample!r} as a stp.pp.DenseMap, which says its origin and µm; found "
            f"{type(dense).__name__}; wrap an array: stp.pp.DenseMap(array, microns=…)"
        )
    own = dense.microns_per_pixel
    if known:
        recorded = section_entry(adata, sample).get("scalefactors", {}).get("microns_per_pixel")
        if own is None:
            dense = replace(dense, microns_per_pixel=microns_per_pixel(adata, sample))
        elif recorded is not None and abs(own / float(recorded) - 1) > _APART:
            raise ValueError(
                f"expected the map of section {sample!r} in the pixels of its spots, {float(recorded):g} µm each; found "
                f"{own:g} µm per pixel; compute it from the full-resolution image"
            )
    elif own is None:
        raise ValueError(
            f"expected the µm per pixel of the map of section {sample!r}, which the object does not know; found none"
        )
    if microns is None:
        return dense
    factor = check_positive(microns, "microns") / dense.microns
    if round(factor) < 1 or abs(factor - round(factor)) > _APART * factor:
        raise ValueError(
            f"expected microns as a whole multiple of {dense.microns:g}, the places of the map of section {sample!r}; found "
            f"{microns:g}; compute another map with stp.pp.dense_features"
        )
    return dense.coarser(round(factor))


def maps_seen(maps: Mapping[str, DenseMap]) -> list[str]:
    """Patients who had a part in the features of maps, as by a stain reference.

    `"unknown"` is among them where nobody wrote down how a map was made.
    """
    seen = {name for dense in maps.values() for name in record_seen(dense.record)}
    return sorted(seen | ({UNKNOWN} if any(not _MADE_BY & set(dense.record) for dense in maps.values()) else set()))


def check_same_values(maps: Mapping[str, DenseMap]) -> None:
    """Raise where maps that go together have other features or places."""
    sizes = {name: (dense.shape[2], round(dense.microns, 6), tuple(dense.names)) for name, dense in maps.items()}
    if len(set(sizes.values())) > 1:
        shown = few(f"{name}: {size[0]} of {size[1]:g} µm" for name, size in sizes.items())
        raise ValueError(f"expected maps with the same features and places; found {shown}; compute them in one call")
