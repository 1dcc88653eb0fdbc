"""Directories that are there whole, or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path


def write_directory(path: Path, marker: str, write: Callable[[Path], None]) -> Path:
    """Write a directory beside its place and move it there, so that an interrupted save leaves the earlier one, or none.

    Parameters
    ----------
    path
        The place. A directory with `marker` in it is replaced.
    marker
        File by which a directory of the kind is known.
    write
        Fills a new directory.

    Raises
    ------
    FileExistsError
        When the place is a file, or a directory with other files in it.
    """
    if path.exists() and not (path / marker).is_file() and (path.is_file() or any(path.iterdir())):
        raise FileExistsError(f"expected a new or empty directory, or one with a model; found other files in {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    fresh, old = path.with_name(f".{path.name}.{token}.new"), path.with_name(f".{path.name}.{token}.old")
    try:
        fresh.mkdir()
        write(fresh)
        if path.exists():
            os.replace(path, old)
        os.replace(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(old, ignore_errors=True)
    return path
