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


def found_done(place: Path, digest: str) -> bool:
    """Whether a result with this digest is there; `FileExistsError` where something else is."""
    if not place.exists():
        return False
    found = recorded_digest(place)
    if found == digest:
        return True
    what = "other files" if found is None else "what another model, other settings or another file gave"
    raise FileExistsError(
        f"expected nothing, or the result of this call, at {place}; found {what}; name another --out, or pass --overwrite"
    )
