"""Which files make up a map on disk, with the digest of each: what is damaged or lost is found before it is read."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

FILES = "stpredict_files.json"  # list of a finished map, and of what an unfinished one began with
LOG = "stpredict_written.jsonl"  # of an unfinished map: what was written since, a line each
_NEW = f"{FILES}.new"
_ABSENT = "absent"  # Zarr writes no file for a chunk that holds nothing but the fill value
_MANY = 2**24  # values of an array that is looked at more closely
_ROOT = ("zarr.json", ".zattrs", ".zgroup", ".zmetadata")


def digest_of(path: Path) -> str:
    """Digest of a file, or a mark of its own where there is none; links, which lead out of a store, are none."""
    if path.is_symlink() or not path.is_file():
        return _ABSENT
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(root: Path) -> dict[str, str]:
    """Digests of all files of a store but its lists, by their path."""
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.name not in (FILES, _NEW, LOG))
    return {path.relative_to(root).as_posix(): digest_of(path) for path in paths}


def write_list(root: Path, files: Mapping[str, str]) -> None:
    """Write the list of a store at once, with a digest of its own."""
    text = json.dumps(dict(sorted(files.items())), indent=0)
    new = root / _NEW
    new.write_text(json.dumps({"digest": _digest(text), "files": text}))
    os.replace(new, root / FILES)


def read_list(root: Path) -> dict[str, str]:
    """Digests that a store carries; `ValueError` where the list is lost or damaged."""
    path = root / FILES
    found = None
    try:
        entry = json.loads(path.read_bytes())
        if isinstance(entry, dict) and _digest(str(entry["files"])) == entry["digest"]:
            found = json.loads(entry["files"])
    except FileNotFoundError:
        raise ValueError(_message(root, f"no {FILES}")) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    if not isinstance(found, dict) or not all(map(_is_inside, found)):
        raise ValueError(_message(root, f"a damaged {FILES}"))
    return found


def check_files(root: Path, files: Mapping[str, str], *, but: Iterable[str] = ()) -> None:
    """Raise `ValueError` unless the files are there as they were written, but for some that are not needed."""
    left_out = set(but)
    for name, digest in files.items():
        if name in left_out:
            continue
        found = digest_of(root / name)
        if found != digest:
            raise ValueError(_message(root, f"{name} {'lost' if found == _ABSENT else 'damaged'}"))


def check_begun(root: Path, work: str) -> None:
    """Raise `ValueError` unless an unfinished map is what it began as; what is written since has its own digests.

    When only the last step is left, the root is being written anew and the group of the work has gone.
    """
    files = read_list(root)
    last = not (root / work).is_dir()
    check_files(root, files, but=[name for name in files if last and (name in _ROOT or name.startswith(f"{work}/"))])
    if last and not Written(root).intact(but=f"{work}/"):
        raise ValueError(_message(root, "chunks lost or damaged"))


class Written:
    """Digests of the chunks that were written to an unfinished map.

    A chunk counts as written when its line is whole and its file is as the line says, so that a chunk that was lost or
    damaged is computed again.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._chunks: dict[str, dict[str, str]] = {}
        self._size = 0
        self._read()

    def _read(self) -> None:
        """Take up what another process has written since."""
        log = self._root / LOG
        size = log.stat().st_size if log.is_file() else 0
        if size == self._size:
            return
        self._size = size
        for line in log.read_bytes().splitlines():
            try:
                name, files = json.loads(line)
                if all(map(_is_inside, files)):
                    self._chunks[str(name)] = {str(file): str(digest) for file, digest in files.items()}
            except (ValueError, TypeError, AttributeError):  # the call was stopped while it wrote the line
                continue

    def intact(self, but: str) -> bool:
        """Whether every chunk that was written is still as it was written, but for those whose names begin in some way."""
        self._read()
        return all(self.has(name) for name in self._chunks if not name.startswith(but))

    def count(self, prefix: str) -> int:
        """Number of chunks whose names begin in some way."""
        return sum(name.startswith(prefix) for name in self._chunks)

    def add(self, name: str, files: Iterable[str]) -> None:
        """Note that the files of a chunk are written."""
        self._chunks[name] = {file: digest_of(self._root / file) for file in files}
        with (self._root / LOG).open("ab") as log:
            log.write(b"\n" + json.dumps([name, self._chunks[name]]).encode())

    def has(self, name: str) -> bool:
        """Whether a chunk is written, and still as it was written."""
        if name not in self._chunks:
            self._read()
        files = self._chunks.get(name)
        return files is not None and all(digest_of(self._root / file) == digest for file, digest in files.items())


def metadata_files(root: Path, array: str) -> list[str]:
    """Files, relative to the store, that describe an array of Zarr."""
    return [f"{array}/{name}" for name in (*_ROOT[:2], ".zarray") if (root / array / name).is_file()]


def is_chunk(name: str) -> bool:
    """Whether a file of a store holds numbers of the map, and not what describes them."""
    return name.startswith(("X/", "layers/std/")) and not name.endswith(("zarr.json", ".zarray", ".zattrs"))


def check_there(root: Path, files: Iterable[str]) -> None:
    """Raise `ValueError` unless files exist, whatever is in them."""
    lost = [name for name in files if not (root / name).is_file()]
    if lost:
        raise ValueError(_message(root, f"{len(lost)} files lost, such as {lost[0]}"))


def check_shapes(root: Path, group: Any, files: Iterable[str]) -> None:
    """Raise `ValueError` unless the sizes that a map claims belong together, before memory is taken for them.

    The map is as large as its tables of tiles and genes; anything else that is large has all of its files, as only parts
    that hold one value throughout are left out of a store.
    """
    import zarr

    kept = set(files)
    for name, array in group.members(max_depth=None):
        if isinstance(array, zarr.Array) and array.size > _MANY and not is_chunk(f"{name}/"):
            grid = [-(-n // m) for n, m in zip(array.shape, array.shards or array.chunks, strict=True)]
            if math.prod(grid) > len(kept) or not all(
                f"{name}/{array.metadata.encode_chunk_key(place)}" in kept for place in np.ndindex(*grid)
            ):
                raise ValueError(_message(root, f"{name} of shape {array.shape} without most of its files"))
    n_obs, n_genes = (_length(group[name]) for name in ("obs", "var"))
    for name in ("X", "layers/std"):
        if name in group and group[name].shape != (n_obs, n_genes):
            raise ValueError(
                _message(root, f"{name} of shape {group[name].shape} for {n_obs} tiles and {n_genes} genes")
            )


def _length(table: Any) -> int:
    """Number of rows of a table."""
    index = table[table.attrs["_index"]]
    return int((index if hasattr(index, "shape") else index["values"]).shape[0])


@contextmanager
def named(root: Path) -> Iterator[None]:
    """Name the map where what it claims cannot be read."""
    try:
        yield
    except (MemoryError, KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise ValueError(_message(root, f"{type(error).__name__} ({error})")) from error


def chunk_files(array: Any, rows: slice, columns: slice) -> list[str]:
    """Files of an array of Zarr, relative to the store, that hold a block of rows and columns."""
    height, width = array.chunks
    keys = [
        array.metadata.encode_chunk_key((row, column))
        for row in range(rows.start // height, -(-rows.stop // height))
        for column in range(columns.start // width, -(-columns.stop // width))
    ]
    return [f"{array.path}/{key}" for key in keys]


def _is_inside(name: str) -> bool:
    """Whether the name of a file leads into the store that lists it."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _message(root: Path, what: str) -> str:
    return (
        f"expected the files of a map as they were written at {root}; found {what}: a copy that broke off, or a changed file; "
        "copy the map again, or remove it and run the same stp.tl.predict again"
    )
