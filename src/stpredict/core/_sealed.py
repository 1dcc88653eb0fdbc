"""Files with the digest of their content behind it, so that a damaged one is not taken for what was written."""

from __future__ import annotations

import hashlib
import io
import os
import tokenize
from pathlib import Path

import numpy as np

SEAL_BYTES = 32
_CHUNK = 2**20
#: What NumPy raises for the header of a file that is no array.
_NO_ARRAY = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


def write_sealed(path: Path, fresh: Path, content: bytes) -> None:
    """Write a file under a fresh name and move it to its path: readers see the old file or the whole new one."""
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.write(hashlib.sha256(content).digest())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def read_sealed(path: Path) -> bytes | None:
    """Content of a file, or `None` where it is not what its digest says.

    Raises
    ------
    OSError
        When there is no such file, or it cannot be read.
    """
    content = path.read_bytes()
    payload, seal = content[:-SEAL_BYTES], content[-SEAL_BYTES:]
    return payload if hashlib.sha256(payload).digest() == seal else None


def seal(path: Path) -> None:
    """Write the digest into the last bytes of a file that has room for it there."""
    size = path.stat().st_size - SEAL_BYTES
    with path.open("r+b") as file:
        digest = _digest(file, size)
        file.seek(size)
        file.write(digest)


def is_sealed(path: Path) -> bool:
    """Whether a file is what its digest says; it is read in pieces."""
    size = path.stat().st_size - SEAL_BYTES
    with path.open("rb") as file:
        return size >= 0 and _digest(file, size) == file.read(SEAL_BYTES)


def array_of(content: bytes) -> np.ndarray | None:
    """Array of the content of a `.npy` file, or `None` where it is none, or claims another size than it has."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(file)
        # Sizes are compared before memory is taken.
        size = dtype.itemsize
        for length in shape:
            size *= int(length)
        if dtype.hasobject or min(shape, default=0) < 0 or size != len(content) - file.tell():
            return None
        return np.load(io.BytesIO(content), allow_pickle=False)
    except _NO_ARRAY:
        return None


def _digest(file: io.BufferedIOBase, size: int) -> bytes:
    """Digest of the next bytes of a file."""
    digest, left = hashlib.sha256(), size
    while left and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.digest()
