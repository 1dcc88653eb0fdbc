"""What a result was made of, so that a call knows whether it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PIECE = 2**16
_PIECES = 32


def fingerprint(path: Path) -> str:
    """Digest of the size of a file and of pieces all over it; of a store of many files, of their names and sizes.

    It tells one slide from another in milliseconds, wherever they lie and whenever they were copied. Features are cached by
    the whole content.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for part in sorted(path.rglob("*")):
            if part.is_file():
                digest.update(f"{part.relative_to(path).as_posix()} {part.stat().st_size}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        for number in range(_PIECES):
            file.seek(max(0, size - _PIECE) * number // (_PIECES - 1))
            digest.update(file.read(_PIECE))
            if size <= _PIECE:
                break
    return digest.hexdigest()


def digest_of(content: Mapping[str, Any]) -> str:
    """Digest of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def record_of(content: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """What a result remembers of all that it was made of, and other facts."""
    return {"digest": digest_of(content), "made_of": json.dumps(content, sort_keys=True), **others}


def recorded(path: Path, name: str = "digest") -> str | None:
    """Text that :func:`record_of` left in a result, an AnnData in Zarr or h5ad; `None` where there is none to be read."""
    place = f"uns/stpredict/shell/{name}"
    unreadable = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)
    if path.is_dir():
        import zarr

        try:
            found: Any = zarr.open_group(path, mode="r", use_consolidated=False)[place]
            return str(found[()])
        except unreadable:
            return None
    import h5py  # type: ignore[import-untyped]

    try:
        with h5py.File(path) as file:
            return str(file[place][()].decode())
    except unreadable:
        return None


def is_there(place: Path, content: Mapping[str, Any], *, overwrite: bool = False) -> bool:
    """Whether the result that is made of something, whole as far as its list of files tells, lies at a place.

    Raises
    ------
    FileExistsError
        When something else lies there, the message says what is different; with `overwrite` it does not count.
    ValueError
        When files of the result were lost; the same.
    """
    if not place.exists():
        return False
    same = recorded(place) == digest_of(content)
    lost = _loss(place) if same else None
    if same and lost is None:
        return True
    if overwrite:
        return False
    found = f"this one, damaged ({lost})" if same else _difference(place, content)
    text = f"expected nothing, or the result of this call, at {place}; found {found}; name another --out, or pass --overwrite"
    raise ValueError(text) if same else FileExistsError(text)


def _difference(place: Path, content: Mapping[str, Any]) -> str:
    """What tells the result at a place from another one."""
    try:
        earlier = json.loads(recorded(place, "made_of") or "")
    except ValueError:
        return "other files"
    now = json.loads(json.dumps(content))
    names = [name for name in {**now, **earlier} if now.get(name) != earlier.get(name)]
    return f"one with another {' and '.join(name.replace('_', ' ') for name in names)}"


def _loss(place: Path) -> str | None:
    """What is lost of a map that carries a list of its files; `None` where nothing is, or nobody can tell."""
    from stpredict.io._map_files import check_there, read_list
    from stpredict.io._read_map import mark_of

    if not place.is_dir() or mark_of(place) is None:
        return None
    try:
        check_there(place, read_list(place))
    except ValueError as error:
        return str(error)
    return None


def make_room(place: Path, content: Mapping[str, Any]) -> None:
    """Remove what another call, or a damage, has left at a place and unfinished beside it."""
    from stpredict.core._turns import remove
    from stpredict.io._read_map import unfinished_path

    if place.exists() and not is_there(place, content, overwrite=True):
        remove(place)
    unfinished = unfinished_path(place)
    if unfinished.exists() and recorded(unfinished) != digest_of(content):
        remove(unfinished)
