"""A store of arrays addressed by what they were computed from."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._sealed import array_of, read_sealed, write_sealed
from stpredict.core._turns import fresh_path, tidy_folder, turn

_FORMAT = 1  # raised when stored features would no longer equal newly computed ones

if TYPE_CHECKING:
    from stpredict.core._stain import Recoloring

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


def counting(
    stain: Recoloring | None, store: FeatureCache | None, key: str | None, compute: Callable[[], np.ndarray]
) -> Callable[[], np.ndarray]:
    """The same computation, which also keeps the number of tiles that were not recolored, beside the features of the key."""
    if stain is None or store is None or key is None:
        return compute

    def computed() -> np.ndarray:
        before = stain.n_left
        array = compute()
        with suppress(OSError):  # the features, which are stored next, tell of a full disk
            store.put(cache_key({"left": key}), np.array([stain.n_left - before]))
        return array

    return computed


def n_left(store: FeatureCache, key: str) -> int | None:
    """The number of tiles that were not recolored, where it is known."""
    found = store.get(cache_key({"left": key}))
    return None if found is None or found.shape != (1,) else int(found[0])


class FeatureCache:
    """Arrays on disk, one file each, written whole or not at all and verified when read.

    A file is a NumPy array file followed by the SHA-256 of it; `numpy.load` reads it as it is. Processes that compute the
    same take turns, and what killed ones left in the folder is removed.

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
        self._full = False
        tidy_folder(self.directory)

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        if len(key) != 64 or not set(key) <= set("0123456789abcdef"):
            raise ValueError(f"expected a key of 64 hexadecimal digits; found {key!r}; make one with cache_key")
        return self.directory / key[:2] / f"{key}.npy"

    def get(self, key: str) -> np.ndarray | None:
        """Return the array of a key, or `None` when there is none or its file is damaged."""
        path = self.path(key)
        try:
            content = read_sealed(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("cached features at %s cannot be read (%s); they are computed again", path, error)
            return None
        array = None if content is None else array_of(content)
        if array is None:
            logger.warning("cached features at %s are damaged; they are computed again", path)
        return array

    def put(self, key: str, array: np.ndarray) -> None:
        """Store an array under a key, replacing what was there."""
        array = np.asarray(array)
        if array.dtype.hasobject:
            raise TypeError("expected an array of numbers; found Python objects")
        path = self.path(key)
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        # The hidden name lies in the folder of all, where what a killed process leaves is looked for.
        write_sealed(path, fresh_path(self.directory / key), buffer.getvalue())

    def get_or_compute(
        self, key: str, shape: tuple[int, ...], compute: Callable[[], np.ndarray]
    ) -> tuple[np.ndarray, bool]:
        """Return the array of a key and whether it was found; otherwise compute and store it.

        Where another process computes it, its end is waited for. A folder that cannot be written costs a warning.

        Parameters
        ----------
        key
            What :func:`cache_key` returned.
        shape
            Shape of the array; what has another is computed anew.
        compute
            Called without arguments.
        """

        def find() -> np.ndarray | None:
            found = self.get(key)
            return found if found is not None and found.shape == shape else None

        if (found := find()) is not None:
            return found, True
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._warn(error)
        with turn(self.directory / key):
            if (found := find()) is not None:
                return found, True
            array = compute()
            if not self._full:
                try:
                    self.put(key, array)
                except OSError as error:
                    self._warn(error)
        return array, False

    def _warn(self, error: OSError) -> None:
        """Say once that nothing can be stored."""
        if not self._full:
            warnings.warn(
                f"features could not be cached in {self.directory}: {error}; they are returned all the same; free some room, "
                "or set stp.settings.cache_dir to a folder that can be written",
                stacklevel=6,
            )
        self._full = True
