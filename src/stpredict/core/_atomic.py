"""Directories that are there whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stpredict.core._turns import aside_path, fresh_path, remove, turn


def write_directory(path: Path, marker: str, write: Callable[[Path], None]) -> Path:
    """Write a directory beside its place and move it there, see :func:`new_directory`.

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
    OSError
        When it cannot be written.
    """
    call = "free some, or name a folder that can be written"
    with room_for(f"{path.name} in {path.parent}", call), new_directory(path, marker) as fresh:
        write(fresh)
    return path


@contextmanager
def room_for(what: str, call: str) -> Iterator[None]:
    """Say what was to be written, and what to do, where the system refuses it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # of our own
            raise
        message = f"expected room to write {what}; found: {error.strerror or error}; {call}"
        raise OSError(error.errno, message) from error


@contextmanager
def new_directory(path: Path, marker: str) -> Iterator[Path]:
    """A directory to be filled beside its place; it is moved there when the block ends.

    After an interruption the earlier directory is there, or none. Where the process was killed between the two steps of the
    exchange, the earlier one lies aside under a hidden name, and the next :func:`stpredict.core._turns.turn` or
    :func:`stpredict.core._turns.tidy` of the place brings it back. Two processes take turns. A link at the place stays, and
    what it points to is replaced.

    Parameters
    ----------
    path
        The place. A directory with `marker` in it is replaced.
    marker
        File by which a directory of the kind is known.

    Raises
    ------
    FileExistsError
        When the place is a file, or a directory with other files in it.
    """
    place = path.resolve() if path.is_symlink() else path
    place.parent.mkdir(parents=True, exist_ok=True)
    with turn(place):
        check_place(place, marker)
        fresh, old = fresh_path(place), aside_path(place)
        try:
            fresh.mkdir()
            yield fresh
            if place.exists():
                os.replace(place, old)
            os.replace(fresh, place)
        finally:
            remove(fresh)
            if old.exists() and not place.exists():
                os.replace(old, place)
            remove(old)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name beside a place for a file, which is moved there when the block ends, or removed where it fails.

    Two processes take turns; what a killed one left is removed by the next.

    Parameters
    ----------
    path
        The place; a file there is replaced, and its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with turn(path):
        fresh = fresh_path(path)
        try:
            yield fresh
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)


def check_place(path: Path, marker: str) -> None:
    """Raise `FileExistsError` where a directory cannot be put, because other files are there."""
    if path.exists() and not (path / marker).is_file() and (path.is_file() or any(path.iterdir())):
        raise FileExistsError(f"expected a new or empty directory, or one with a model; found other files in {path}")
