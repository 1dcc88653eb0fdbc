"""Objects that commands read: AnnData in h5ad or Zarr, maps, SpatialData."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.core._atomic import new_file

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container


def read_object(path: Path) -> AnnData:
    """Read an AnnData from whatever holds one.

    Raises
    ------
    FileNotFoundError
        When there is nothing.
    ValueError
        When it is none of these, or is damaged.
    """
    import anndata

    from stpredict.io import read_map
    from stpredict.io._read_map import mark_of

    if not path.exists():
        raise FileNotFoundError(f"expected an object (.h5ad, .zarr) at {path}; found nothing; correct the path")
    if mark_of(path) is not None:
        return read_map(path)
    try:
        return anndata.read_zarr(path) if path.is_dir() else anndata.read_h5ad(path)
    except Exception as error:
        # anndata, h5py and zarr raise errors of many kinds for what they do not know.
        raise ValueError(
            f"expected an AnnData (.h5ad, .zarr) at {path}; found what cannot be read as one ({type(error).__name__}: "
            f"{error}); copy it again, or write it with adata.write_h5ad"
        ) from error


def read_sections(path: Path) -> tuple[Container, AnnData]:
    """Read sections with what pictures lie beside them: an AnnData, or a SpatialData whose table has them; and the table.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_object` does.
    KeyError
        When a SpatialData has no table of that name.
    """
    from stpredict.cohorts._section_files import kind_of
    from stpredict.slots._container import get_table
    from stpredict.slots._keys import Key

    if kind_of(path) != "spatialdata":
        adata = read_object(path)
        return adata, adata
    import spatialdata

    try:
        data = spatialdata.read_zarr(path)
    except Exception as error:
        # spatialdata, zarr and what is below them raise errors of many kinds for what they do not know.
        raise ValueError(
            f"expected a SpatialData at {path}; found what cannot be read as one ({type(error).__name__}: {error}); copy it "
            "again, or write it with sdata.write"
        ) from error
    return data, get_table(data, Key.TABLE)


def read_objects(paths: Sequence[Path]) -> AnnData:
    """Read objects, or those of folders, and join them."""
    import stpredict as stp
    from stpredict.cli._items import SECTIONS, find_items

    found = [read_object(item.path) for where in paths for item in find_items(where, SECTIONS)]
    return found[0] if len(found) == 1 else stp.concat(found)


def write_h5ad(adata: AnnData, path: Path) -> None:
    """Write an object at once."""
    with new_file(path) as fresh:
        adata.write_h5ad(fresh)
