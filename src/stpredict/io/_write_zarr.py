"""Write objects to Zarr in few files."""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.slots._container import is_spatialdata

if TYPE_CHECKING:
    from stpredict.slots._container import Container


def write_zarr(data: Container, path: str | Path) -> Path:
    """Write an AnnData or a SpatialData to Zarr, each array in few files.

    The chunks of an array share files (shards, of the third format of Zarr), so that a matrix of many genes is one file
    or two instead of hundreds. Read it with `anndata.read_zarr` or `spatialdata.read_zarr`. It is written beside its
    place and moved there, so that an interrupted call leaves nothing that looks whole.

    Parameters
    ----------
    data
        AnnData or SpatialData.
    path
        Path of the store, where there is nothing yet.

    Returns
    -------
    Absolute path of the store.

    Raises
    ------
    TypeError
        When `data` is neither AnnData nor SpatialData.
    FileExistsError
        When there is something at the path.

    Examples
    --------
    >>> import anndata as ad
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_spots=30, n_genes=5)
    >>> _ = stp.io.write_zarr(adata, "cohort.zarr")
    >>> ad.read_zarr("cohort.zarr").shape
    (30, 5)
    """
    import anndata

    if not (is_spatialdata(data) or isinstance(data, anndata.AnnData)):
        raise TypeError(f"expected AnnData or SpatialData; found {type(data).__name__}")
    place = Path(os.path.abspath(path))
    if place.exists():
        raise FileExistsError(
            f"expected a new path for the store; found something at {place}; remove it or name another"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with (
            anndata.settings.override(auto_shard_zarr_v3=True, zarr_write_format=3),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)  # an extension of the third format
            if is_spatialdata(data):
                data.write(fresh)
            else:
                data.write_zarr(fresh)
        os.replace(fresh, place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    if is_spatialdata(data):
        data.path = place
    return place
