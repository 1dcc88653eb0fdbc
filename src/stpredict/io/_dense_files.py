"""Maps of sections in Zarr, written in blocks of rows and read lazily, and as image elements of a SpatialData."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._atomic import new_directory, room_for
from stpredict.slots._dense_map import DenseMap
from stpredict.slots._keys import distinct

if TYPE_CHECKING:
    import zarr
    from xarray import DataArray

_MARK = "stpredict_dense"
_FILE = "stpredict_dense.txt"  # by which the folder is known, so that nothing else is replaced
_CHUNK = 2**20  # values of a chunk: 4 MB
_BAND = 64  # values (features or genes) of a chunk


@contextmanager
def new_dense_store(path: str | Path) -> Iterator[zarr.Group]:
    """A group to be filled with maps, which is at its path when the block ends, as a whole or not at all."""
    import zarr

    place = Path(path)
    call = "free some, or name a folder that can be written"
    with room_for(f"maps to {place}", call), new_directory(place, _FILE) as fresh:
        (fresh / _FILE).write_text("Maps of sections, to be read by stpredict.io.read_dense.\n")
        group = zarr.open_group(fresh, mode="a", zarr_format=3)
        group.attrs[_MARK] = 1
        yield group


def new_dense_array(
    group: zarr.Group | None, name: str, shape: tuple[int, int, int], block: int, what: str = "values"
) -> Any:
    """Empty array for the values of a section, in chunks of up to `block` rows; in memory without a group."""
    if group is None:
        return np.empty(shape, dtype=np.float32)
    rows, band = min(block, shape[0]), min(_BAND, shape[2])
    columns = max(1, min(shape[1], _CHUNK // (rows * band)))
    return group.require_group(name).create_array(
        what, shape=shape, chunks=(rows, columns, band), dtype="float32", fill_value=np.nan
    )


def describe_dense(group: zarr.Group, name: str, sample: str, dense: DenseMap) -> None:
    """Write what is to be known of a section's map beside its values."""
    known: Any = group.attrs.get("sections", [])
    group.attrs["sections"] = [*known, name]
    group[name].attrs.update(
        {
            "sample": sample,
            "microns": float(dense.microns),
            "microns_per_pixel": None if dense.microns_per_pixel is None else float(dense.microns_per_pixel),
            "origin": [float(value) for value in dense.origin],
            "names": [str(value) for value in dense.names],
            "reach_um": None if dense.reach_um is None else float(dense.reach_um),
            "record": dict(dense.record),
        }
    )


def group_names(samples: Sequence[str]) -> dict[str, str]:
    """Names of the groups of sections."""
    return distinct(samples)


def read_dense(path: str | Path) -> dict[str, DenseMap]:
    """Open the maps that :func:`stpredict.pp.dense_features` or :func:`stpredict.tl.super_resolve` wrote to a store.

    Values stay in the store until they are asked for.

    Parameters
    ----------
    path
        Path of the store.

    Returns
    -------
    A :class:`stpredict.pp.DenseMap` per section.

    Raises
    ------
    FileNotFoundError
        When there is nothing at the path.
    ValueError
        When it holds something else, or a part of a map is missing.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 5, n_spots=12)
    >>> _ = stp.pp.dense_features(adata, microns=16, store="features.zarr")
    >>> list(stp.io.read_dense("features.zarr"))
    ['P1_S1']
    """
    import zarr

    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"expected maps at {place}; found nothing; write them with `store=`")
    if not (place / _FILE).is_file():
        raise ValueError(f"expected maps at {place}; found something else; write them with `store=`")
    try:
        group: Any = zarr.open_group(place, mode="r", zarr_format=3)
        found = {}
        for name in group.attrs["sections"]:
            part = group[name]
            about: Mapping[str, Any] = dict(part.attrs)
            settings = {name: about[name] for name in ("microns", "microns_per_pixel", "names", "reach_um", "record")}
            origin = tuple(about["origin"])
            found[str(about["sample"])] = DenseMap(part["values"], origin=origin, std=part.get("std"), **settings)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"expected whole maps at {place}; found them damaged ({type(error).__name__}: {error}); copy the store again, or "
            "write it anew"
        ) from error
    return found


def dense_element(dense: DenseMap, sample: str, std: bool = False) -> DataArray:
    """A map as an image element of a SpatialData, placed in the pixels of its section; computed when it is needed."""
    import dask.array as da
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale, Sequence, Translation

    source = dense.std if std else dense.values
    array = da.from_array(source, chunks=getattr(source, "chunks", "auto"))
    place = Sequence([Scale([dense.side_px] * 2, axes=("x", "y")), Translation(list(dense.origin), axes=("x", "y"))])
    names = list(dense.names) or [str(number) for number in range(dense.shape[2])]
    element: DataArray = Image2DModel.parse(
        array.transpose(2, 0, 1), dims=("c", "y", "x"), c_coords=names, transformations={sample: place}
    )
    return element
