"""Calls on sections in files: done once, written back in one step, and remembered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.cohorts._section_files import signature, write_section
from stpredict.core._engine import Parcel
from stpredict.core._settings import settings
from stpredict.core._turns import fresh_path, turn

Log = list[list[str | None]]  # names of functions with digests of their arguments


def call_section(cohort: Any, held: Any, *, write: bool | None, resume: bool, cache: str) -> Any:
    """Call a function on the only section of a cohort, here or on a worker.

    `held` is the function with its arguments, on a worker as a :class:`Parcel`; `cache` the folder that this process caches in.
    """
    function, args, kwargs = held.open() if isinstance(held, Parcel) else held
    (name,) = cohort.names

    def work() -> tuple[Any, Any]:
        data = cohort[name]
        return data, function(data, *args, **kwargs)

    how: dict[str, Any] = {"write": write, "resume": resume, "table_key": cohort.table_key}
    before, settings.cache_dir = settings.cache_dir, Path(cache)
    try:
        return run_call(cohort.paths[name], work, function, args, kwargs, **how)
    finally:
        settings.cache_dir = before


def run_call(
    path: Path,
    work: Callable[[], tuple[Any, Any]],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    write: bool | None,
    resume: bool,
    table_key: str,
) -> Any:
    """Do some work on a section unless it was done; put the section back where it was changed.

    Other processes that work on the section are waited for, and what they have done is not done again.
    """
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '<>')}"
    digest = None if "<" in name else call_digest(args, kwargs)  # those without a name cannot be told from each other
    with turn(path):
        log = _read_logs(path).get(signature(path, table_key), [])
        if resume and digest is not None and [name, digest] in log:
            return None
        data, result = work()
        if write or (write is None and result is None):
            after = _with_call(log, name, digest)
            write_section(data, path, table_key, lambda mark: _write_log(path, mark, after))
        return result


def _with_call(log: Log, name: str, digest: str | None) -> Log:
    """The calls behind a section after another one: what followed on the same function, called otherwise, no longer holds."""
    at = next((number for number, (other, _) in enumerate(log) if other == name), len(log))
    return [*log[:at], [name, digest]]


def _log_path(path: Path) -> Path:
    return settings.cache_dir / "cohorts" / "calls" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"


def _read_logs(path: Path) -> dict[str, Log]:
    """Calls behind a section, first to last, by the signature that its file has after them."""
    try:
        return dict(json.loads(_log_path(path).read_text())["logs"])
    except (OSError, ValueError, KeyError):
        return {}


def _write_log(path: Path, mark: str, log: Log) -> None:
    """Remember the calls behind the file to come, and those behind the one that is there until then."""
    place = _log_path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    logs = dict(list(_read_logs(path).items())[-1:]) | {mark: log}
    fresh = fresh_path(place)
    fresh.write_text(json.dumps({"path": str(path), "logs": logs}))
    os.replace(fresh, place)


def call_digest(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Digest of what a function is called with; `None` where it cannot be told from another call."""
    try:
        named = sorted((name, value) for name, value in kwargs.items() if name != "progress")
        return hashlib.sha256(json.dumps([args, named], default=_told).encode()).hexdigest()
    except (TypeError, ValueError):
        return None


def _told(value: Any) -> Any:
    """Something that JSON can write and that differs where the value does."""
    if isinstance(value, Path):
        return ["path", str(value)]
    if isinstance(value, np.ndarray | np.generic):
        return [str(np.asarray(value).dtype), np.asarray(value).tolist()]
    if hasattr(value, "fingerprint"):
        return [type(value).__qualname__, str(value.fingerprint())]
    if isinstance(value, set | frozenset):
        return ["set", sorted(map(str, value))]
    raise TypeError(f"no digest of {type(value).__name__}")
