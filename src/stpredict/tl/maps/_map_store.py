"""A map on disk: an AnnData in Zarr, written gene chunk by gene chunk, and resumed after an interruption."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._atomic import room_for
from stpredict.core._turns import fresh_path, remove, tidy, turn
from stpredict.io._map_files import LOG, Written, check_begun, chunk_files, list_files, metadata_files, write_list
from stpredict.io._read_map import GENES, MARK, WORK, mark_of, unfinished_path
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    from anndata import AnnData

_KEPT = ("spatial", "spatialdata_attrs", Key.UNS)


class MapStore:
    """A store that one call fills.

    While it is unfinished it lies at `"{path}.partial"`; the last step moves it to its path. Chunks of genes that are
    written, and what was pooled of blocks of windows, are found again by the same call, unless they were damaged since: both
    carry digests. The finished store lists those of all its files.

    The store has the turn at its path until :meth:`close`, or the end of a `with` block: another process that makes the
    same call waits and then finds the map.

    Attributes
    ----------
    path
        Path of the finished store.
    complete
        Whether it is finished.
    """

    def __init__(self, path: Path, group: Any, complete: bool, turns: ExitStack | None = None) -> None:
        self.path = path
        self.complete = complete
        self._group = group
        self._turns = turns or ExitStack()
        self._written = Written(unfinished_path(path))

    def __enter__(self) -> MapStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have their turn."""
        self._turns.close()

    @classmethod
    def open(
        cls,
        path: str | Path,
        digest: str,
        adata: AnnData,
        genes: Sequence[str],
        chunks: Sequence[slice],
        obs: Mapping[str, np.ndarray],
        *,
        std: bool = False,
        record: Mapping[str, Any] | None = None,
    ) -> MapStore:
        """Begin a store, or find one that the same call began or finished.

        Parameters
        ----------
        path
            Path of the store to write.
        digest
            Digest of everything the map depends on.
        adata
            Table of the tiles.
        genes
            Names of the genes.
        chunks
            Slices of the genes.
        obs
            Columns to add to those of the table.
        std
            Make room for the standard deviation.
        record
            What is to be known of the target.

        Raises
        ------
        FileExistsError
            When something else lies at the path, or an unfinished map of another call beside it.
        ValueError
            When what the unfinished map began with was lost or damaged.
        """
        path = Path(os.path.abspath(path))
        if _is_finished(path, digest):
            tidy(path)
            return cls(path, None, complete=True)
        with _advice(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as turns:
            turns.enter_context(turn(path))
            if _is_finished(path, digest):  # by the process that was waited for
                return cls(path, None, complete=True)
            unfinished = unfinished_path(path)
            if not unfinished.exists():
                fresh = fresh_path(path)
                try:
                    with _advice(path):
                        _begin(fresh, digest, adata, genes, chunks, obs, std, record)
                        if not unfinished.exists():  # another process, where there are no locks
                            os.replace(fresh, unfinished)
                except OSError:
                    _check_unfinished(unfinished, digest)
                    if not unfinished.exists():
                        raise
                finally:
                    remove(fresh)
            _check_unfinished(unfinished, digest)
            check_begun(unfinished, WORK)
            group = _open_group(unfinished)
            store = cls(path, group, complete=False, turns=turns.pop_all())
        if WORK not in store._group:
            store.finish()  # stopped just before its last step
        return store

    def has(self, genes: slice) -> bool:
        """Whether a chunk of genes is written, and still as it was written."""
        return self._written.has(f"{GENES}{genes.start}")

    def write(self, genes: slice, mean: np.ndarray, std: np.ndarray | None = None) -> None:
        """Write a chunk of genes (n_tiles, g), and note that it is written."""
        files = []
        with _advice(self.path):
            for name, values in (("X", mean), ("layers/std", std)):
                if values is not None:
                    array = self._group[name]
                    array[:, genes] = values
                    files += chunk_files(array, slice(0, array.shape[0]), genes)
            self._written.add(f"{GENES}{genes.start}", files)

    def blocks(self, name: str, n: int, size: int) -> Blocks:
        """Where what was pooled of the windows of one slide is kept."""
        return Blocks(self._group[WORK], unfinished_path(self.path), self._written, name, n, size)

    def finish(self) -> None:
        """Drop what only an unfinished store needs, list the digests of its files, and move it to its path."""
        import zarr

        unfinished = unfinished_path(self.path)
        with _advice(self.path):
            if (unfinished / WORK).is_dir():
                scratch = fresh_path(self.path)
                os.replace(unfinished / WORK, scratch)  # at once, so that it is there as a whole or not at all
                remove(scratch)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the third format of Zarr calls this an extension
                zarr.consolidate_metadata(self._group.store)
            write_list(unfinished, list_files(unfinished))
            (unfinished / LOG).unlink(missing_ok=True)
            os.replace(unfinished, self.path)
        self.complete = True
        self.close()


@dataclass
class Blocks:
    """Rows of a matrix (n, p) on disk, written in blocks of `size`."""

    group: Any
    root: Path
    written: Written
    name: str
    n: int
    size: int

    def load(self, start: int, stop: int) -> np.ndarray | None:
        """Return a block, or `None` when it was not written or is damaged."""
        if not self.written.has(self._array) or not self.written.has(f"{self._array} {start}"):
            return None
        return self.group[self.name][start:stop]

    def save(self, start: int, stop: int, values: np.ndarray) -> None:
        """Write a block, and note that it is written."""
        with _advice(self.root):
            if not self.written.has(self._array):
                shutil.rmtree(self.root / self._array, ignore_errors=True)
                shape, chunks = (self.n, values.shape[1]), (self.size, values.shape[1])
                self.group.create_array(self.name, shape=shape, chunks=chunks, dtype="float32", overwrite=True)
                self.written.add(self._array, metadata_files(self.root, self._array))
            array = self.group[self.name]
            array[start:stop] = values
            files = chunk_files(array, slice(start, stop), slice(0, values.shape[1]))
            self.written.add(f"{self._array} {start}", files)

    @property
    def _array(self) -> str:
        return f"{WORK}/{self.name}"


def _is_finished(path: Path, digest: str) -> bool:
    """Whether the finished map of a call lies at a path; `FileExistsError` where something else does."""
    mark = mark_of(path)
    if mark != digest and path.exists():
        what = "files that are no map" if mark is None else "the map of another model, other tiles or options"
        raise FileExistsError(f"expected a new path for the map; found {what} at {path}; remove it or name another")
    return mark == digest


def _check_unfinished(path: Path, digest: str) -> None:
    """Raise `FileExistsError` where something else than an unfinished map of a call lies at a path."""
    mark = mark_of(path)
    if path.exists() and mark != digest:
        what = "files that are no map" if mark is None else "an unfinished map of another call"
        raise FileExistsError(
            f"expected nothing, or this map unfinished, at {path}; found {what}; remove it or name another path"
        )


def _open_group(path: Path) -> Any:
    import zarr

    return zarr.open_group(path, mode="r+", use_consolidated=False)


def _advice(path: Path) -> AbstractContextManager[None]:
    """Say how to go on where a map cannot be written."""
    call = "free some, or make the folder writable, and make the same call again, which goes on with what is written"
    return room_for(f"the map to {path.parent}", call)


def _begin(
    path: Path,
    digest: str,
    adata: AnnData,
    genes: Sequence[str],
    chunks: Sequence[slice],
    obs: Mapping[str, np.ndarray],
    std: bool,
    record: Mapping[str, Any] | None,
) -> None:
    """Write everything but the map itself."""
    import pandas as pd
    import zarr
    from anndata import AnnData

    table = AnnData(
        obs=adata.obs.assign(**obs),
        var=pd.DataFrame(index=pd.Index(genes, dtype=str)),
        obsm={Key.SPATIAL: np.asarray(adata.obsm[Key.SPATIAL])} if Key.SPATIAL in adata.obsm else {},
        uns={name: adata.uns[name] for name in _KEPT if name in adata.uns},
    )
    write_record(table, MARK, record or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # which version of Zarr is written is anndata's setting
        table.write_zarr(path)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    shape, widest = (adata.n_obs, len(genes)), max(genes.stop - genes.start for genes in chunks)
    for name in ["X", *(["layers/std"] if std else [])]:
        # Not a number until written, so that nobody takes an unfinished map for zeros.
        array = group.create_array(
            name, shape=shape, chunks=(shape[0], widest), dtype="float32", fill_value=np.nan, overwrite=True
        )
        array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    group.create_group(WORK)
    group.attrs[MARK] = digest
    write_list(path, list_files(path))
