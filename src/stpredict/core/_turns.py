"""Processes that write to one place take turns, and what a killed one left there is removed by the next."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # no locks of this kind on this system
    fcntl = None  # type: ignore[assignment]

_PAUSE_S = 0.05
_PATIENCE_S = 2.0  # how long a process waits before it says so
_LONGEST = 180  # bytes of a name that still leave room for what is put around it
_HIDDEN = re.compile(r"\.(?P<name>.+?)\.(?:[0-9a-f]{8}\.(?P<kind>new|old)|stplock)", re.DOTALL)

logger = logging.getLogger(__name__)
_mine = threading.local()  # places whose turn this thread has
_told: set[Path] = set()  # folders without locks that were reported


@contextmanager
def turn(place: Path, *, wait: bool = True) -> Iterator[bool]:
    """Have the only turn at a place, until the block ends or the process dies.

    The turn is a lock of the operating system on `.{name}.stplock` beside the place, which is removed with the last turn. What
    processes that died left at the place is removed first; a directory that one had moved aside comes back.

    Parameters
    ----------
    place
        File or directory to work on; its folder is there. A thread that has the turn already keeps it.
    wait
        Whether to wait for another process (or thread), which is said after a while.

    Yields
    ------
    Whether the turn is ours: not where another has it and `wait` is false, and not where no lock can be had. There is none
    in a folder that cannot be written, and none on some network file systems, which is said.
    """
    place = Path(os.path.abspath(place))
    held: set[Path] = _mine.__dict__.setdefault("places", set())
    if place in held:
        yield True
        return
    path = _hidden(place, "stplock")
    file = _locked(path, place, wait)
    if file is None:
        yield False
        return
    held.add(place)
    try:
        with suppress(OSError):
            _clear(place)
        yield True
    finally:
        held.discard(place)
        # Removed before it is released: whoever has waited for it finds that it is gone, and makes another.
        with suppress(OSError):
            path.unlink()
        os.close(file)


def fresh_path(place: Path) -> Path:
    """A new hidden name beside a place, for what will be moved there; a turn at the place removes what is left of it."""
    return _hidden(place, f"{uuid.uuid4().hex[:8]}.new")


def aside_path(place: Path) -> Path:
    """A new hidden name beside a place, for what lies there while it is replaced; a turn at the place moves it back."""
    return _hidden(place, f"{uuid.uuid4().hex[:8]}.old")


def tidy(place: Path, *, wait: bool = False) -> None:
    """Remove what dead processes left at a place, and bring back what one had moved aside."""
    if any(True for _ in _left_at(place)):
        with turn(place, wait=wait):
            pass


def tidy_folder(folder: Path) -> None:
    """The same for every place in a folder of our own."""
    with suppress(OSError):
        names = {found["name"] for entry in os.scandir(folder) if (found := _HIDDEN.fullmatch(entry.name))}
        for name in sorted(names):
            with turn(folder / name, wait=False):
                pass


def _hidden(place: Path, end: str) -> Path:
    """A hidden name beside a place; it ends in some way."""
    name = place.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return place.with_name(f".{name}.{end}")


def _left_at(place: Path) -> Iterator[tuple[Path, str | None]]:
    """Hidden files and directories of a place, with their kind: `"new"`, `"old"`, or `None` for the lock."""
    name = _hidden(place, "").name[1:-1]
    with suppress(OSError):
        for entry in os.scandir(place.parent):
            found = _HIDDEN.fullmatch(entry.name)
            if found and found["name"] == name:
                yield Path(entry.path), found["kind"]


def _clear(place: Path) -> None:
    """Remove what is left at a place; whoever has the turn calls this."""
    for path, kind in sorted(_left_at(place)):
        if kind == "old" and not os.path.lexists(place):
            os.replace(path, place)
        elif kind is not None:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a directory, or nothing where it cannot be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _locked(path: Path, place: Path, wait: bool) -> int | None:
    """Descriptor of a locked file, or `None`."""
    if fcntl is None:
        _tell_without(place.parent, "this system")
        return None
    start, patience = time.monotonic(), _PATIENCE_S
    while True:
        try:
            file = _opened(path)
        except OSError:  # nothing can be written there, which whoever wants to write says
            return None
        ours = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = _same(file, path)
            if ours:
                with suppress(OSError):
                    os.ftruncate(file, 0)
                    os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        except BlockingIOError:
            if not wait:
                return None
            if time.monotonic() - start > patience:
                with suppress(OSError):
                    who = os.pread(file, 200, 0).decode(errors="replace") or "another process"
                    logger.warning("%s works on %s; waiting until it has ended", who, place)
                patience *= 10
            time.sleep(_PAUSE_S)
        except OSError:
            remove(path)
            _tell_without(place.parent, "the file system")
            return None
        finally:
            if not ours:
                os.close(file)


def _opened(path: Path) -> int:
    """Open a lock, or make it; that of another user may only be readable, which is enough."""
    flags = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | flags)


def _same(file: int, path: Path) -> bool:
    """Whether a path still leads to an open file: the process before may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _tell_without(folder: Path, what: str) -> None:
    if folder not in _told:
        _told.add(folder)
        logger.warning(
            "%s has no locks for files in %s: processes that write to one place there at once are not kept apart; let one "
            "write at a time",
            what,
            folder,
        )
