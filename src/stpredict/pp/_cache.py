"""A store of arrays addressed by what they were computed from."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_FORMAT = 1  # raised when stored features would no longer equal newly computed ones
_DIGEST_BYTES = 32

logger = logging.getLogger(__name__)


def cache_key(parts: Mapping[str, Any]) -> str:
    """Digest of named values, independent of their order.

    Parameters
    ----------
    parts
        Strings, numbers, `None`, bytes, arrays, and sequences of these. Kind, shape and length are part of the digest,
        so that no two different inputs run together.

    Returns
    -------
    64 hexadecimal digits.
    """
    digest = hashlib.sha256(f"stpredict-cache-{_FORMAT}".encode())
    for name in sorted(parts):
        digest.update(_canonical(name) + _canonical(parts[name]))
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        return _framed("array", f"{array.dtype.str}{array.shape}".encode() + b"|" + array.tobytes())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return _framed("bytes", value)
    if isinstance(value, (tuple, list)):
        return _framed("sequence", b"".join(_canonical(item) for item in value))
    if value is None or isinstance(value, (str, bool, int, float)):
        if isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if float(value) == value else value
        return _framed(type(value).__name__, repr(value).encode())
    raise TypeError(
        f"expected strings, numbers, bytes, arrays or sequences of these in a cache key; found {type(value)}"
    )


def _framed(kind: str, content: bytes) -> bytes:
    return f"{kind}:{len(content)}:".encode() + content


class FeatureCache:
    """Arrays on disk, one file each, written whole or not at all and verified when read.

    A file is a NumPy array file followed by the SHA-256 of it; `numpy.load` reads it as it is.

    Parameters
    ----------
    directory
        Folder of the files; `settings.cache_dir / "features"` when `None`. Made at the first `put`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from stpredict.pp._cache import FeatureCache, cache_key
    >>> cache = FeatureCache(tempfile.mkdtemp())
    >>> key = cache_key({"encoder": "color-texture", "tile_um": 112.0})
    >>> cache.get(key) is None
    True
    >>> cache.put(key, np.ones((2, 3), dtype=np.float32))
    >>> cache.get(key).shape
    (2, 3)
    """

    def __init__(self, directory: str | Path | None = None) -> None:
        if directory is None:
            from stpredict.core._settings import settings

            directory = settings.cache_dir / "features"
        self.directory = Path(directory)

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        if len(key) != 64 or not set(key) <= set("0123456789abcdef"):
            raise ValueError(f"expected a key of 64 hexadecimal digits; found {key!r}; make one with cache_key")
        return self.directory / key[:2] / f"{key}.npy"

    def get(self, key: str) -> np.ndarray | None:
        """Return the array of a key, or `None` when there is none or its file is damaged."""
        path = self.path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("cached features at %s cannot be read (%s); they are computed again", path, error)
            return None
        payload, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            logger.warning("cached features at %s are damaged; they are computed again", path)
            return None
        return np.load(io.BytesIO(payload), allow_pickle=False)

    def put(self, key: str, array: np.ndarray) -> None:
        """Store an array under a key, replacing what was there."""
        array = np.asarray(array)
        if array.dtype.hasobject:
            raise TypeError("expected an array of numbers; found Python objects")
        path = self.path(key)
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        payload = buffer.getvalue()
        path.parent.mkdir(parents=True, exist_ok=True)
        # A temporary name in the same folder: readers see the old file or the whole new one.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{key[:8]}-", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(payload)
                file.write(hashlib.sha256(payload).digest())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
