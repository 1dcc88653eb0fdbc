"""The tiles of one slide, whatever holds them: a slide, a tile table, a stored one, or rows of a common table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._files import damage_named
from stpredict.core._validate import check_finite, few
from stpredict.io._counts_h5 import check_h5
from stpredict.slots._checks import check_obs
from stpredict.slots._container import is_spatialdata
from stpredict.slots._content import unsealed
from stpredict.slots._features import feature_matrix
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of
from stpredict.slots._provenance import read_record, records

if TYPE_CHECKING:
    from anndata import AnnData

_TILES = "_tiles"
_PER_SECTION = ("microns_per_pixel", "padded")


@dataclass
class SlideTiles:
    """Features of the tiles of one slide.

    Attributes
    ----------
    name
        Name of the slide.
    patient
        Patient of the slide; `None` where the tiles do not name one.
    key
        Slot of the features.
    features
        Features (n, d), float32, finite.
    positions
        Array row and column, or y and x, (n, 2); `None` without either.
    record
        Provenance of the features, without what differs between slides.
    own
        Entries of the record that differ between slides: `microns_per_pixel`, `padded`.
    """

    name: str
    patient: str | None
    key: str
    features: np.ndarray
    positions: np.ndarray | None
    record: dict[str, Any]
    own: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where the tiles of a slide are: an object or a path, and of a table of several slides the rows."""

    data: Any
    name: str | None = None
    rows: np.ndarray | None = None

    def __str__(self) -> str:
        if self.name is not None:
            return f"slide {self.name!r}"
        return f"slide {self.data}" if isinstance(self.data, (str, Path)) else f"a slide ({type(self.data).__name__})"


def list_sources(slides: Any, sample_key: str) -> list[Source]:
    """One source per slide, without opening any."""
    from anndata import AnnData

    if isinstance(slides, AnnData):
        check_obs(slides, sample_key, "name the slide of every tile there, or pass a mapping from name to tile table")
        if slides.obs[sample_key].isna().any():
            raise ValueError(
                f"expected obs[{sample_key!r}] without gaps; found {int(slides.obs[sample_key].isna().sum())} missing "
                "values"
            )
        names = slides.obs[sample_key].astype(str).to_numpy()
        sources = [Source(slides, name, np.flatnonzero(names == name)) for name in np.unique(names).tolist()]
    elif isinstance(slides, Mapping):
        sources = [Source(data, str(name)) for name, data in slides.items()]
    elif isinstance(slides, (str, Path)) or is_spatialdata(slides):
        sources = [Source(slides)]
    elif isinstance(slides, (Sequence, Iterator)):
        sources = [Source(data) for data in slides]
    else:
        raise TypeError(
            "expected slides as a mapping from name to slide, tile table or path, a sequence of them, or one AnnData of "
            f"tiles; found {type(slides).__name__}"
        )
    if not sources:
        raise ValueError("expected at least one slide; found none")
    return sources


def read_slide(source: Source, encoder: str | None, sample_key: str, patient_key: str) -> SlideTiles:
    """Open one source and read the features of its tiles."""
    data = load(source.data) if isinstance(source.data, (str, Path)) else source.data
    table, attrs = _tile_table(data, encoder, source)
    rows = np.arange(table.n_obs) if source.rows is None else source.rows
    if len(rows) == 0:
        raise ValueError(
            f"expected tiles in {source}; found none; run stp.pp.tissue and stp.pp.tiles with other limits"
        )
    sample = _single(table, sample_key, rows, source) or _text(attrs.get("sample"))
    name = source.name or sample
    if name is None and isinstance(source.data, (str, Path)):
        name = Path(source.data).stem
    if name is None:
        raise ValueError(
            f"expected the name of {source}; found neither obs[{sample_key!r}] nor attrs['stpredict']['sample']; pass "
            "`slides` as a mapping from name to slide"
        )
    key = feature_key(table, encoder, f"slide {name!r}")
    values = feature_matrix(table, key)
    assert values is not None
    chosen = values if source.rows is None else values[rows]
    features = np.asarray(chosen.toarray() if hasattr(chosen, "toarray") else chosen, dtype=np.float32)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"expected features (n_tiles, d) in {key!r} of slide {name!r}; found shape {features.shape}")
    check_finite(features, f"features {key!r} of slide {name!r}", "run stp.pp.image_features again for this slide")

    record = unsealed(read_record(table, key) or {}, values)
    record.pop("stpredict_version", None)
    per_section = {what: _of_section(record.pop(what, None), sample, name) for what in _PER_SECTION}
    return SlideTiles(
        name=name,
        patient=_single(table, patient_key, rows, source) or _text(attrs.get("patient")),
        key=key,
        features=features,
        positions=_positions(table, rows),
        record=record | {"dim": features.shape[1]},
        own={what: value for what, value in per_section.items() if value is not None},
    )


def load(path: str | Path) -> Any:
    """Read a stored tile table or slide: an .h5ad file, or the folder of an AnnData or SpatialData in Zarr."""
    import anndata

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a tile table or slide at {path}; found nothing")
    if path.is_file():
        check_h5(path)
        with damage_named(path, "an .h5ad file"):
            return anndata.read_h5ad(path)
    import zarr

    with damage_named(path, "a Zarr store of tiles or of a slide"):
        try:
            if zarr.open_group(str(path), mode="r").attrs.get("encoding-type") == "anndata":
                return anndata.read_zarr(path)
            import spatialdata

            return spatialdata.read_zarr(path, selection=("tables",))
        except FileNotFoundError as error:  # what is missing is a part of the store, which is there
            raise ValueError(str(error)) from error


def feature_key(table: AnnData, encoder: str | None, where: str) -> str:
    """Slot of the features: of an encoder, or the only one there is."""
    found = [
        key
        for key in dict.fromkeys([*table.obsm, *records(table)])
        if key.startswith("X_") and read_record(table, key) and feature_matrix(table, key) is not None
    ]
    if encoder is None:
        if len(found) == 1:
            return found[0]
        what = (
            f"several ({few(sorted(found))}); name one with `encoder=`"
            if found
            else f"none; run stp.pp.image_features, or name a slot of your own among {sorted(table.obsm)} with `encoder=`"
        )
        raise KeyError(f"expected one slot of image features in {where}; found {what}")
    for key in (Key.features(encoder), encoder):
        if feature_matrix(table, key) is not None:
            return key
    raise KeyError(
        f"expected features {Key.features(encoder)!r} in {where}; found {sorted(found) or sorted(table.obsm)}; run "
        f"stp.pp.image_features(slide, {encoder!r})"
    )


def _tile_table(data: Any, encoder: str | None, source: Source) -> tuple[AnnData, Mapping[str, Any]]:
    from anndata import AnnData

    if isinstance(data, AnnData):
        return data, {}
    if not is_spatialdata(data):
        raise TypeError(
            f"expected {source} as a SpatialData, an AnnData of tiles, or the path of one; found {type(data).__name__}"
        )
    table_names = sorted(name for name in data.tables if name.endswith(_TILES))
    wanted = (
        [table_names[0]] if encoder is None and len(table_names) == 1 else [f"{encoder}{_TILES}"] if encoder else []
    )
    if not wanted or wanted[0] not in data.tables:
        what = f"the table {wanted[0]!r}" if wanted else "one table of tile features"
        hint = (
            "name one with `encoder=`"
            if len(table_names) > 1 and encoder is None
            else "run stp.pp.image_features(slide)"
        )
        raise KeyError(f"expected {what} in {source}; found {table_names or 'none'}; {hint}")
    return data.tables[wanted[0]], data.attrs.get(Key.UNS, {})


def _single(table: AnnData, column: str, rows: np.ndarray, source: Source) -> str | None:
    """The one value of a column in these rows; `None` without it."""
    if column not in table.obs:
        return None
    values = table.obs[column].iloc[rows].dropna().astype(str).unique()
    if len(values) > 1:
        raise ValueError(
            f"expected one value of obs[{column!r}] in {source}; found {few(values)}; pass a table of several slides by "
            "itself, not in a mapping or sequence"
        )
    return str(values[0]) if len(values) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _of_section(values: Any, sample: str | None, name: str) -> Any:
    """Entry of this slide in what is recorded by section."""
    if not isinstance(values, Mapping):
        return None
    for known in (sample, name):
        if known in values:
            return values[known]
    return next(iter(values.values())) if len(values) == 1 else None


def _positions(table: AnnData, rows: np.ndarray) -> np.ndarray | None:
    lattice = [Key.ARRAY_ROW, Key.ARRAY_COL]
    if all(name in table.obs and table.obs[name].dtype.kind in "iuf" for name in lattice):
        return table.obs[lattice].to_numpy(dtype=np.float64)[rows]
    if Key.SPATIAL in table.obsm:
        return positions_of(table)[rows, ::-1]
    return None
