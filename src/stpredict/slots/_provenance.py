"""What was done to an object, kept in `uns["stpredict"]` in a form that h5ad and Zarr can store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._keys import Key, escaped, unescaped

if TYPE_CHECKING:
    from anndata import AnnData

_AGAIN = "read the object again, or run the step that wrote it again"
_BY_SECTION = ("microns_per_pixel", "padded")  # what is recorded for every section


def _storable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {escaped(key): _storable(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple, set, frozenset)):
        return np.array([str(item) for item in value] if not all(isinstance(v, (int, float)) for v in value) else value)
    if isinstance(value, (str, bool, int, float, np.ndarray, np.generic)):
        return value
    return str(value)


def write_record(adata: AnnData, key: str, entry: Mapping[str, Any]) -> None:
    """Store `entry` under `uns["stpredict"][key]`; `None` values are left out."""
    from stpredict import __version__

    record = dict(records(adata))
    record[key] = _storable({**entry, "stpredict_version": __version__})
    adata.uns[Key.UNS] = record


def read_record(adata: AnnData, key: str) -> dict[str, Any] | None:
    """Return `uns["stpredict"][key]` with plain Python values, or `None` when nothing was recorded."""
    entry = records(adata).get(key)
    if entry is None:
        return None
    record: dict[str, Any] = _plain(_mapping(entry, key))
    for name in _BY_SECTION if key.startswith("X_") else ():  # elsewhere they are settings of a call
        values = _mapping(record.get(name, {}), key, name).values()
        if not all(isinstance(value, int | float) for value in values):
            raise ValueError(
                f"expected numbers by section in uns['stpredict'][{key!r}][{name!r}]; found {few(values)}; {_AGAIN}"
            )
    return record


def records(adata: AnnData) -> Mapping[str, Any]:
    """`uns["stpredict"]`, empty where nothing was recorded; `ValueError` where something else stands there."""
    return _mapping(adata.uns.get(Key.UNS, {}))


def _mapping(value: Any, *keys: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        where = "".join(f"[{key!r}]" for key in (Key.UNS, *keys))
        raise ValueError(f"expected a mapping at uns{where}; found {type(value).__name__}; {_AGAIN}")
    return value


def drop_records(adata: AnnData, keys: Iterable[str]) -> None:
    """Remove `uns["stpredict"][key]` where there is such a record."""
    gone = set(keys) & set(adata.uns.get(Key.UNS, {}))
    if gone:
        adata.uns[Key.UNS] = {key: entry for key, entry in adata.uns[Key.UNS].items() if key not in gone}


def check_normalized(record: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a record of `stp.pp.normalize` has gaps: sections made in different ways were joined."""
    method = record.get("method")
    wanted = {
        None: ["method"],
        "log1p": ["size_factors", "target_sum"],
        "pearson_residuals": ["size_factors", "theta"],
        "log2p1": ["unit"],
    }.get(method, [])
    if record.get("target_sum") == "median":
        wanted = [*wanted, "section_sums"]
    if record.get("size_factors") == "panel":
        wanted = [*wanted, "panel"]
    missing = [name for name in wanted if name not in record]
    if missing:
        raise ValueError(
            f"expected the whole record of a normalization in uns['stpredict']['normalize']; found one without "
            f"{', '.join(missing)}, as after joining sections that were normalized in different ways; call "
            "stp.pp.normalize(adata, layer='counts') on the joined object"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {unescaped(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def genes_digest(genes: Iterable[str]) -> str:
    """Short digest of a gene list, independent of its order."""
    return hashlib.sha256("\n".join(sorted(genes)).encode()).hexdigest()[:16]
