"""Read maps that were written to Zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.io._map_files import (
    FILES,
    Written,
    check_begun,
    check_files,
    check_shapes,
    check_there,
    chunk_files,
    is_chunk,
    named,
    read_list,
)
from stpredict.slots._keys import Key
from stpredict.slots._prediction import NAMES, Names, write_prediction
from stpredict.slots._provenance import drop_records, read_record

if TYPE_CHECKING:
    from anndata import AnnData

MARK = "stpredict_map"  # attribute of the root with the digest of the call
WORK = "stpredict_work"  # group that is there while a map is unfinished
_PER_COLUMN = {"units", "training_rates", "training_spread"}
GENES = "genes "  # what the names of its chunks of genes begin with


def read_map(path: str | Path, genes: Sequence[str] | None = None, *, key: str = Key.PREDICTED) -> AnnData:
    """Read a map that :func:`stpredict.tl.predict` wrote to a store, or some genes of it.

    The store is an AnnData in Zarr with one chunk for every few genes: reading some of many genes takes little time and
    memory.

    Parameters
    ----------
    path
        Path of the store, the `store` of that call.
    genes
        Genes to read; all when `None`.
    key
        Slot of `obsm` for the prediction.

    Returns
    -------
    Table of the tiles without features, with the map in `obsm[key]` (tiles × genes in the order asked for, which
    :func:`stpredict.get.predicted` returns with their names), the columns of `obs`, the positions in `obsm["spatial"]` and the picture in `uns["spatial"]`.
    The record of the prediction says what it is of: the unit of genes (rates of counts, log1p values, residuals), or the units
    and the link of values.

    Raises
    ------
    FileNotFoundError
        When there is no store, or only an unfinished one.
    ValueError
        When the path holds something other than a map, or files of the map were lost or damaged, as the digests that it
        carries tell.
    KeyError
        When genes are not in the map.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"sample": np.repeat(list("abcd"), 9), "patient": np.repeat(list("PQRS"), 9)})
    >>> tiles = ad.AnnData(obs=obs.rename(index=str))
    >>> tiles.obs["array_row"], tiles.obs["array_col"] = np.tile(np.mgrid[:3, :3].reshape(2, -1), 4)
    >>> tiles.obsm["X_own"] = rng.normal(size=(36, 5)).astype("float32")
    >>> bulk = pd.DataFrame(rng.uniform(0, 900, (4, 3)), index=list("abcd"), columns=["ESR1", "ERBB2", "GATA3"])
    >>> bags = stp.pp.bag(tiles, "own", expression=bulk, n_tokens=4)
    >>> stp.pp.normalize(bags, unit="fpkm-uq")
    >>> model = stp.tl.fit(bags, "he2rna", training={"max_epochs": 1}, baselines=False)
    >>> stp.tl.predict(tiles, model, window=2, store="map.zarr")
    >>> stp.io.read_map("map.zarr", ["ERBB2"]).obsm["predicted"].shape
    (36, 1)
    """
    import pandas as pd
    import zarr
    from anndata import AnnData
    from anndata.io import read_elem

    path = Path(path)
    unfinished = path if path.name.endswith(".partial") else unfinished_path(path)
    if not path.exists() or path == unfinished:
        if mark_of(unfinished) is None:
            raise FileNotFoundError(f"expected a map at {path}; found nothing; write one with stp.tl.predict(store=…)")
        check_begun(unfinished, WORK)
        work: Any = zarr.open_group(unfinished, mode="r", use_consolidated=False)
        n_chunks = work["X"].cdata_shape[1]
        n_written = Written(unfinished).count(GENES) if WORK in work else n_chunks
        raise FileNotFoundError(
            f"expected a finished map at {path}; found an unfinished one ({n_written} of {n_chunks} chunks of genes) at "
            f"{unfinished}; run the same stp.tl.predict again to finish it"
        )
    if not (path / FILES).is_file() and mark_of(path) is None:
        raise ValueError(f"expected a map at {path}; found something else; write one with stp.tl.predict(store=…)")
    files = read_list(path)
    check_there(path, files)
    check_files(path, files, but=filter(is_chunk, files))
    with named(path):
        group: Any = zarr.open_group(path, mode="r")
        check_shapes(path, group, files)
        names = read_elem(group["var"]).index
    columns = np.arange(len(names)) if genes is None else names.get_indexer(list(genes))
    if (columns < 0).any():
        missing = [gene for gene, column in zip(genes or [], columns, strict=True) if column < 0]
        raise KeyError(f"expected genes of the map; found {len(missing)} others (first: {missing[0]!r})")
    with named(path):
        every = slice(0, group["X"].shape[0])
        needed = {name for column in columns for name in chunk_files(group["X"], every, slice(column, column + 1))}
        check_files(path, {name: files[name] for name in needed if name in files})
        values = group["X"][:] if genes is None else group["X"].oindex[:, columns]
        adata = AnnData(
            obs=read_elem(group["obs"]),
            obsm={name: read_elem(group["obsm"][name]) for name in group["obsm"]},
            uns=read_elem(group["uns"]),
        )
    frame = pd.DataFrame(values, index=adata.obs_names, columns=names[columns])
    record, what = _of_columns(read_record(adata, MARK) or {}, columns, len(names))
    if "patients_seen" not in record:  # a mark that the table had when the map was begun is of an earlier prediction
        adata.obs = adata.obs.drop(columns=Key.leaky(key), errors="ignore")
    drop_records(adata, [MARK])
    write_prediction(adata, key, frame, record, names=what)
    return adata


def _of_columns(record: Mapping[str, Any], columns: np.ndarray, n: int) -> tuple[dict[str, Any], Names]:
    """What a map of n columns says of its target, for some of them, and what they are; genes where it says nothing."""
    found = {name: value for name, value in record.items() if name not in ("names", "stpredict_version")}
    for name in (_PER_COLUMN | {"training_depths"}) & set(found):
        values = np.asarray(found[name])
        found[name] = values[..., columns] if name in _PER_COLUMN and values.shape[-1:] == (n,) else values
    what = record.get("names", "genes")
    return found, what if what in NAMES else "genes"


def unfinished_path(path: Path) -> Path:
    """Where a map lies until it is finished."""
    return path.with_name(f"{path.name}.partial")


def mark_of(path: Path) -> str | None:
    """Digest that a store carries; `None` where there is no map, or one whose description is damaged."""
    import zarr

    if not path.is_dir():
        return None
    try:
        mark = zarr.open_group(path, mode="r", use_consolidated=False).attrs.get(MARK)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None
    return None if mark is None else str(mark)
