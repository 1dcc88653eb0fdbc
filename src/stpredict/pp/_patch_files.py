"""Patches of a section: cut once, and kept in a file that is named after what they show."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.core._sealed import SEAL_BYTES, is_sealed, seal
from stpredict.core._settings import settings
from stpredict.core._turns import fresh_path, remove, turn
from stpredict.io._image import SectionImage, check_positions

_VERSION = 2  # raised when stored patches would no longer equal newly cut ones

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Patches of one section: where they are, and which of them (n,) reach beyond the image."""

    sample: str
    picture: SectionImage
    xy: np.ndarray
    side: int
    patch_px: int
    padded: np.ndarray
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the patches."""
        return len(self.xy), self.patch_px, self.patch_px, 3


def job_of(picture: SectionImage, name: str, xy: np.ndarray, side: int, patch_px: int, check: bool) -> Job:
    """Check a section, and name its file after its contents."""
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise ValueError(f"expected obsm['spatial'] of shape (n_obs, 2); found {xy.shape}")
    check_positions(xy, picture, name, check=check)
    if side > min(picture.height, picture.width):
        raise ValueError(
            f"expected patches smaller than the image of section {name!r} ({picture.width} x {picture.height} px); found "
            f"a side of {side} px; check its µm per pixel, or take a smaller patch_um"
        )
    digest = hashlib.sha256(f"{_VERSION} {picture.fingerprint()} {side} {patch_px} {len(xy)}".encode())
    digest.update(np.ascontiguousarray(xy).tobytes())
    path = settings.cache_dir / "patches" / f"{digest.hexdigest()}.npy"
    return Job(name, picture, xy, side, patch_px, picture.reaching_beyond(xy, side), path)


def section_patches(job: Job, done: Callable[[int], Any]) -> np.ndarray:
    """Patches (n, patch_px, patch_px, 3) of a section: a memory map, or an array where the cache cannot be written."""
    try:
        if (found := _find(job)) is None:
            with suppress(OSError):
                job.path.parent.mkdir(parents=True, exist_ok=True)
            with turn(job.path):
                found = _find(job)
                if found is None:
                    if job.path.is_file():
                        logger.warning("patches at %s are damaged; they are cut again", job.path)
                    return _written(job, done)
        done(len(found))
        return found
    finally:
        job.picture.close()


def _find(job: Job) -> np.ndarray | None:
    """Memory map of a whole file of the patches; `None` where there is none."""
    try:
        if not job.path.is_file():
            return None
        if is_sealed(job.path):  # else NumPy would read a damaged header, and raises errors of many kinds then
            stored = np.load(job.path, mmap_mode="r")
            if stored.shape == job.shape and stored.dtype == np.uint8:
                return stored
    except (ValueError, OSError, EOFError):
        pass
    return None


def _written(job: Job, done: Callable[[int], Any]) -> np.ndarray:
    """Cut the patches into a file, or into memory where that cannot be written."""
    fresh = fresh_path(job.path)
    try:
        try:
            store = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.uint8, shape=job.shape)
            _reserve(fresh)
        except OSError as error:
            _warn(job, error)
            return _cut(job, np.empty(job.shape, dtype=np.uint8), done)
        _cut(job, store, done)
        try:
            store.flush()
            seal(fresh)
            os.replace(fresh, job.path)
        except OSError as error:
            _warn(job, error)
            return np.array(store)
        return np.load(job.path, mmap_mode="r")
    finally:
        remove(fresh)


def _warn(job: Job, error: OSError) -> None:
    warnings.warn(
        f"the patches of section {job.sample!r} could not be kept in {job.path.parent} ({error}); they are held in memory "
        f"({np.prod(job.shape) / 2**30:.2f} GiB) and cut again by the next call: free some room, or set "
        "stp.settings.cache_dir to a folder that can be written",
        stacklevel=6,
    )


def _reserve(path: Path) -> None:
    """Take the room of a file and of its digest on the disk: writing to a memory map without it ends the process."""
    size = path.stat().st_size + SEAL_BYTES
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _cut(job: Job, into: np.ndarray, done: Callable[[int], Any]) -> np.ndarray:
    """Fill an array with the patches of a section."""
    import torch

    from stpredict.encoders._resize import resized
    from stpredict.pp._windows import windows_around

    for rows, windows in windows_around(job.picture, job.xy, job.side):
        into[rows] = resized(windows, job.patch_px, torch.device("cpu"), job.picture.stain).permute(0, 2, 3, 1).numpy()
        done(len(rows))
    return into
