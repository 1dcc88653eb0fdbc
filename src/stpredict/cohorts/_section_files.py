"""Files of sections: h5ad, Zarr or SpatialData; what can be known of them without reading them, and how they are replaced."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stpredict.core._atomic import new_directory, room_for
from stpredict.core._turns import fresh_path, remove, turn
from stpredict.slots._container import find_table, is_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

Kind = Literal["h5ad", "zarr", "spatialdata"]
_MARKERS = ("zarr.json", ".zgroup")
_FULL = "free some, or copy the cohort to a folder that can be written: cohort.write(folder)"


def kind_of(path: Path) -> Kind | None:
    """What a path holds, by what is there; `None` for anything else."""
    if path.is_file():
        return "h5ad" if path.suffix in {".h5ad", ".h5"} else None
    if not any((path / name).is_file() for name in _MARKERS):
        return None
    return "spatialdata" if (path / "tables").is_dir() else "zarr"


def stores_in(path: Path) -> list[Path]:
    """Files of sections in a folder, in the order of their names; hidden ones are none."""
    return sorted(each for each in path.iterdir() if not each.name.startswith(".") and kind_of(each) is not None)


@contextmanager
def table_in(path: Path, table_key: str) -> Iterator[Any]:
    """The group of a file that holds the table of a section, open for reading."""
    kind = kind_of(path)
    if kind == "h5ad":
        import h5py  # type: ignore[import-untyped]

        with h5py.File(path, "r") as file:
            yield file
        return
    import zarr

    # Not what was consolidated: a table may have been replaced since.
    root: Any = zarr.open_group(path, mode="r", use_consolidated=False)
    if kind == "spatialdata":
        names = sorted(root["tables"])
        if table_key not in names:
            raise KeyError(f"expected a table {table_key!r} in {path}; found {names}; name one with `table_key=`")
        root = root["tables"][table_key]
    yield root


def n_rows(table: Any) -> int:
    """Number of observations of a table."""
    return int(table["obs"][table["obs"].attrs["_index"]].shape[0])


def distinct_values(table: Any, key: str) -> list[str] | None:
    """Distinct values of a column of `obs` as text, `None` among them for gaps; `None` where there is no such column."""
    from anndata.io import read_elem

    if key not in table["obs"]:
        return None
    values: Any = read_elem(table["obs"][key])
    import pandas as pd

    found = pd.Series(values).astype(object)
    return [None if pd.isna(value) else str(value) for value in found.unique()]  # type: ignore[misc]


def signature(path: Path, table_key: str) -> str:
    """Digest of the names, sizes and times of what is at a path, of a SpatialData of its table: another one after a change."""
    digest = hashlib.sha256()
    if kind_of(path) == "spatialdata":
        path = path / "tables" / table_key
    for file in [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file()):
        if file == path or not file.name.startswith(".") or file.name in _MARKERS:  # locks are none of it
            status = file.stat()
            digest.update(json.dumps([str(file.relative_to(path)), status.st_size, status.st_mtime_ns]).encode())
    return digest.hexdigest()


def read_section(path: Path) -> Container:
    """Read a section: its table into memory, pictures of a SpatialData when they are looked at."""
    kind = kind_of(path)
    if kind == "spatialdata":
        import spatialdata

        return spatialdata.read_zarr(path)
    import anndata

    return anndata.read_h5ad(path) if kind == "h5ad" else anndata.read_zarr(path)


def write_section(
    data: Container, path: Path, table_key: str, announce: Callable[[str], None] = lambda _: None
) -> None:
    """Put a section in the place of what is at a path, which is there before and after, whole; of a SpatialData its table.

    Its form follows from the path: what is there already, or an ending. `announce` is told the signature that will be that of
    the path, before it is.
    """
    with room_for(f"{path.name} in {path.parent}", _FULL), turn(path):
        if is_spatialdata(data):
            _write_table(data, path, find_table(data, table_key), announce)
        elif path.suffix in {".h5ad", ".h5"}:
            fresh = fresh_path(path)
            try:
                data.write_h5ad(fresh)
                announce(signature(fresh, table_key))
                os.replace(fresh, path)
            finally:
                remove(fresh)
        else:
            marker = next((name for name in _MARKERS if (path / name).is_file()), _MARKERS[0])
            with new_directory(path, marker) as fresh:
                fresh.rmdir()
                _write_zarr(data, fresh)
                announce(signature(fresh, table_key))


def _write_zarr(adata: AnnData, path: Path) -> None:
    import anndata

    with anndata.settings.override(zarr_write_format=3):
        adata.write_zarr(path)


def _write_table(data: Any, path: Path, table_key: str, announce: Callable[[str], None]) -> None:
    """Replace one table of a SpatialData on disk; pictures and shapes stay as they are."""
    import spatialdata
    import zarr

    if kind_of(path) is None:
        data.write(path)
        announce(signature(path, table_key))
        return
    shadow = fresh_path(path)
    try:
        spatialdata.SpatialData(tables={table_key: data.tables[table_key]}).write(shadow)
        # The summary of the store speaks of the old table: until the new one is in place there is none.
        _forget_summary(path)
        place = path / "tables" / table_key
        with new_directory(place, "zarr.json") as fresh:
            fresh.rmdir()
            os.replace(shadow / "tables" / table_key, fresh)
            announce(signature(fresh, table_key))
        zarr.consolidate_metadata(str(path))
    finally:
        remove(shadow)


def _forget_summary(path: Path) -> None:
    """Remove the consolidated metadata of a store; readers then look at every array."""
    file = path / "zarr.json"
    entry = json.loads(file.read_text())
    if entry.pop("consolidated_metadata", None) is not None:
        fresh = fresh_path(file)
        fresh.write_text(json.dumps(entry))
        os.replace(fresh, file)
