"""What a result was made of, so that a call knows whether it is done."""

from __future__ import annotations

import hashlib
import json
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


def digest_of(content: dict[str, Any]) -> str:
    """Digest of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def recorded_digest(path: Path) -> str | None:
    """Digest in a result, an AnnData in Zarr or h5ad; `None` where there is none to be read."""
    if path.is_dir():
        import zarr

        try:
            found: Any = zarr.open_group(path, mode="r", use_consolidated=False)["uns/stpredict/shell/digest"]
            return str(found[()])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
            return None
    import h5py  # type: ignore[import-untyped]

    try:
        with h5py.File(path) as file:
            return str(file["uns/stpredict/shell/digest"][()].decode())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None


def is_there(place: Path, digest: str, *, overwrite: bool = False) -> bool:
    """Whether the result of a call, whole as far as its list of files tells, lies at a place.

    Raises
    ------
    FileExistsError
        When something else lies there; with `overwrite` it does not count.
    ValueError
        When files of the result were lost; the same.
    """
    if not place.exists():
        return False
    found = recorded_digest(place)
    what = "other files" if found is None else "what another model, other settings or another file gave"
    lost = None
    if found == digest:
        lost = _loss(place)
        if lost is None:
            return True
        what = "the result of this call, damaged"
    if overwrite:
        return False
    text = f"expected nothing, or the result of this call, at {place}; found {what}; name another --out, or pass --overwrite"
    raise FileExistsError(text) if lost is None else ValueError(f"{text} ({lost})")


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


def make_room(place: Path, digest: str) -> None:
    """Remove what another call, or a damage, has left at a place and unfinished beside it."""
    from stpredict.core._turns import remove
    from stpredict.io._read_map import unfinished_path

    if place.exists() and not is_there(place, digest, overwrite=True):
        remove(place)
    unfinished = unfinished_path(place)
    if unfinished.exists() and recorded_digest(unfinished) != digest:
        remove(unfinished)
