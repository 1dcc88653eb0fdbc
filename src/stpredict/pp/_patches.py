"""Image patches for networks that read pixels: cut once per section, kept as memory maps."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._sealed import SEAL_BYTES, is_sealed, seal
from stpredict.core._settings import settings
from stpredict.core._turns import fresh_path, remove, tidy_folder, turn
from stpredict.core._validate import check_positive
from stpredict.io._image import (
    SectionImage,
    check_positions,
    microns_per_pixel,
    positions_are_checked,
    section_image,
)
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_VERSION = 2  # raised when stored patches would no longer equal newly cut ones
_MANY_PADDED = 0.05

logger = logging.getLogger(__name__)


def patches(
    data: Container,
    patch_um: float,
    patch_px: int,
    *,
    image: Any = None,
    sample_key: str = Key.SAMPLE,
    progress: bool | None = None,
    check: bool = True,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Cut the patches of every section ahead of training, and keep them in the cache.

    Networks that read pixels find them there. :func:`stpredict.tl.fit` and :func:`stpredict.tl.predict` cut missing
    patches themselves; this function does it elsewhere, for example on a node without an accelerator, with the sizes of
    the network's configuration. Patches lie in one uint8 file per section under `settings.cache_dir / "patches"`,
    `3 * patch_px**2` bytes each, named after what they were cut from: the image, the positions, and both sizes. A file that
    does not match the digest it carries is cut again; of two processes that want the same patches, one cuts them. What lies
    beyond the border of the image is filled by reflection, and counted.

    Parameters
    ----------
    data
        AnnData or SpatialData with `obsm["spatial"]` (x, y in full-resolution pixels), `obs[sample_key]` and µm per
        pixel in `uns["spatial"]`.
    patch_um
        Side of a patch in µm.
    patch_px
        Side of a patch in pixels after resampling (bilinear, antialiased).
    image
        Images that the object does not record: a path, an array, or a mapping from section to either.
    sample_key
        Column of `obs` that names the section.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    check
        Whether to refuse positions that lie clearly better on the tissue with x and y exchanged; sections that were read
        with `check=False` are not refused in any case.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per section: `sample`, `n_patches`, `n_padded` (patches that reach beyond the image), `side_px` (side in
    full-resolution pixels), `patch_um`, `patch_px`, `path` (empty where the file could not be written). Nothing is written
    to `data`.

    Raises
    ------
    KeyError
        When positions, sections or an image are missing.
    ValueError
        When µm per pixel is not known, positions lie outside the image or do not fit it, a patch is larger than the
        image, or the image is damaged.
    TypeError
        When an image holds neither uint8, uint16 nor floats, or `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When the cache cannot be written: patches are then held in memory, and cut again by the next call.
        When more than 5 % of a section's patches reach beyond the image. Also when an image is gray, uses fewer bits than
        its values have, is resampled, or is much coarser than `patch_px` asks for.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_spots=30, n_genes=5)
    >>> table = stp.pp.patches(adata, 112, 32, progress=False)
    >>> table[["n_patches", "n_padded"]].values.tolist()
    [[30, 0]]
    """
    import pandas as pd

    from stpredict.slots._container import get_table

    adata = get_table(data, table_key)
    stack = patch_stack(
        data,
        adata,
        np.ones(adata.n_obs, dtype=bool),
        patch_um=patch_um,
        patch_px=patch_px,
        image=image,
        sample_key=sample_key,
        progress=settings.progress if progress is None else progress,
        check=check,
    )
    return pd.DataFrame(stack.cut)


@dataclass(frozen=True)
class _Job:
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


class PatchStack:
    """Patches of several sections behind one index.

    Parameters
    ----------
    parts
        Array or memory map (n_section, px, px, 3) uint8 of each section.
    part, row
        (n,) which part and which row of it each observation is.
    cut
        Record of the cut patches, one entry per section: `sample`, `n_patches`, `n_padded`, `side_px`, `patch_um`, `patch_px`,
        `path` (empty where they are in memory only).
    keys
        Digest of what the patches of each section were cut from.
    padded
        Number of patches that reach beyond the image, by section, among the observations of the stack.
    """

    def __init__(
        self,
        parts: list[np.ndarray],
        part: np.ndarray,
        row: np.ndarray,
        *,
        cut: list[dict[str, Any]],
        keys: list[str],
        padded: dict[str, int],
    ) -> None:
        self.parts, self.part, self.row, self.cut, self.keys, self.padded = parts, part, row, cut, keys, padded

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Patches (k, px, px, 3) of some observations; only these are read."""
        part, row = self.part[index], self.row[index]
        out = np.empty((len(part), *self.parts[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(part):
            in_part = part == number
            out[in_part] = self.parts[number][row[in_part]]
        return out

    def __getstate__(self) -> dict[str, Any]:
        """Memory maps as arrays: what is sent to other processes is sent section by section, and each of them once."""
        return self.__dict__ | {"parts": [np.asarray(part) for part in self.parts]}

    def fingerprint(self) -> str:
        """Digest of what was cut: the keys say from which image, at which positions, in which size."""
        digest = hashlib.sha256("\n".join(self.keys).encode())
        for values in (self.part, self.row):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def patch_stack(
    data: Container,
    adata: AnnData,
    rows: np.ndarray,
    *,
    patch_um: float,
    patch_px: int,
    image: Any = None,
    sample_key: str = Key.SAMPLE,
    progress: bool = False,
    check: bool = True,
) -> PatchStack:
    """Cut the patches of some observations, or find them in the cache.

    Every section is checked before the first is cut. Warns where more than a few percent of a section's patches reach
    beyond the image and are filled by reflection.

    Parameters
    ----------
    data, adata
        Container and its table.
    rows
        (n_obs,) mask.
    patch_um, patch_px
        Side of a patch in µm, and in pixels after resampling.
    image
        Images that are not recorded in the object (path, array, or mapping by section).
    sample_key
        Column of `obs` with the section.
    progress
        Whether to show a progress bar.
    check
        Whether to compare the positions with the tissue.
    """
    from tqdm.auto import tqdm

    from stpredict.encoders._resize import warn_if_coarse

    check_positive(patch_um, "patch_um")
    if int(patch_px) != patch_px or patch_px < 1:
        raise ValueError(f"expected patch_px to be a positive whole number; found {patch_px!r}")
    check_obsm(adata, Key.SPATIAL, "read the data with stp.io, or set x, y in full-resolution pixels")
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    sample = adata.obs[sample_key].astype(str).to_numpy()
    names = np.unique(sample[rows])
    if not len(names):
        raise ValueError("expected at least one observation; found none")
    if image is not None and not isinstance(image, Mapping) and len(names) > 1:
        raise ValueError(
            f"expected `image=` as a mapping by section for {len(names)} sections; found {type(image).__name__}"
        )
    index = np.flatnonzero(rows)
    part, row = np.empty(len(index), dtype=np.int64), np.empty(len(index), dtype=np.int64)
    jobs, padded, cut = [], {}, []
    for number, name in enumerate(names):
        in_section = sample[index] == name
        # The whole section is cut, so that a split of its spots finds the same file.
        whole = np.flatnonzero(sample == name)
        part[in_section], row[in_section] = number, np.searchsorted(whole, index[in_section])
        xy = positions_of(adata)[whole]
        side = max(1, round(patch_um / microns_per_pixel(adata, name)))
        picture = section_image(data, adata, name, image)
        job = _job(picture, name, xy, side, int(patch_px), check and positions_are_checked(adata, name))
        if len(names) > 1:  # not all pictures are held at once
            picture.close()
        warn_if_coarse(f"the image of section {name!r}", side, int(patch_px), stacklevel=3)
        jobs.append(job)
        cut.append(
            {
                "sample": name,
                "n_patches": len(xy),
                "n_padded": int(job.padded.sum()),
                "side_px": side,
                "patch_um": float(patch_um),
                "patch_px": int(patch_px),
                "path": str(job.path),
            }
        )
        padded[name] = int(job.padded[row[in_section]].sum())
        if padded[name] > _MANY_PADDED * in_section.sum():
            warnings.warn(
                f"{padded[name]} of {in_section.sum()} patches of section {name!r} reach beyond the image and are filled by "
                "reflection; a smaller patch, or an image with a margin, avoids it",
                stacklevel=2,
            )
    tidy_folder(settings.cache_dir / "patches")
    with tqdm(
        total=sum(len(job.xy) for job in jobs), desc="reading pictures", unit="patch", leave=False, disable=not progress
    ) as bar:
        parts = [_section_patches(job, bar.update) for job in jobs]
    for entry, stored in zip(cut, parts, strict=True):
        entry["path"] = entry["path"] if isinstance(stored, np.memmap) else ""
    return PatchStack(parts, part, row, cut=cut, keys=[job.path.stem for job in jobs], padded=padded)


def _job(picture: SectionImage, name: str, xy: np.ndarray, side: int, patch_px: int, check: bool) -> _Job:
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
    return _Job(name, picture, xy, side, patch_px, picture.reaching_beyond(xy, side), path)


def _section_patches(job: _Job, done: Callable[[int], Any]) -> np.ndarray:
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


def _find(job: _Job) -> np.ndarray | None:
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


def _written(job: _Job, done: Callable[[int], Any]) -> np.ndarray:
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


def _warn(job: _Job, error: OSError) -> None:
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


def _cut(job: _Job, into: np.ndarray, done: Callable[[int], Any]) -> np.ndarray:
    """Fill an array with the patches of a section."""
    import torch

    from stpredict.encoders._resize import resized
    from stpredict.pp._windows import windows_around

    for rows, windows in windows_around(job.picture, job.xy, job.side):
        into[rows] = resized(windows, job.patch_px, torch.device("cpu"), job.picture.stain).permute(0, 2, 3, 1).numpy()
        done(len(rows))
    return into
