"""Image patches for networks that read pixels: cut once per section, kept as memory maps."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._keys import Key
from stpredict._settings import settings
from stpredict._validate import check_obsm
from stpredict.io._image import SectionImage, check_positions, microns_per_pixel, section_image

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict._container import Container

_VERSION = 1


class PatchStack:
    """Patches of several sections behind one index.

    Parameters
    ----------
    parts
        Array or memory map (n_section, px, px, 3) uint8 of each section.
    part, row
        (n,) which part and which row of it each observation is.
    """

    def __init__(self, parts: list[np.ndarray], part: np.ndarray, row: np.ndarray) -> None:
        self.parts, self.part, self.row = parts, part, row

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Patches (k, px, px, 3) of some observations; only these are read."""
        part, row = self.part[index], self.row[index]
        out = np.empty((len(part), *self.parts[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(part):
            here = part == number
            out[here] = self.parts[number][row[here]]
        return out


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
) -> PatchStack:
    """Cut the patches of some observations, or find them in the cache.

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
        Show a progress bar.
    """
    check_obsm(adata, Key.SPATIAL, "read the data with stp.io, or set x, y in full-resolution pixels")
    sample = adata.obs[sample_key].astype(str).to_numpy()
    names = np.unique(sample[rows])
    index = np.flatnonzero(rows)
    part, row = np.empty(len(index), dtype=np.int64), np.empty(len(index), dtype=np.int64)
    jobs: Any = []
    for number, name in enumerate(names):
        here = sample[index] == name
        # The whole section is cut, so that a split of its spots finds the same file.
        whole = np.flatnonzero(sample == name)
        part[here], row[here] = number, np.searchsorted(whole, index[here])
        picture = section_image(data, adata, name, image)
        xy = np.asarray(adata.obsm[Key.SPATIAL], dtype=float)[whole]
        check_positions(xy, picture, name)
        jobs.append((picture, xy, max(1, round(patch_um / microns_per_pixel(adata, name)))))
    if progress:
        from tqdm.auto import tqdm

        jobs = tqdm(jobs, desc="patches", unit="section")
    return PatchStack([_section_patches(picture, xy, side, patch_px) for picture, xy, side in jobs], part, row)


def _section_patches(picture: SectionImage, xy: np.ndarray, side: int, patch_px: int) -> np.ndarray:
    """Memory map (n, patch_px, patch_px, 3) of a section's patches, written under a name made of its contents."""
    import torch

    from stpredict.pp._image_features import resized

    digest = hashlib.sha256(f"{_VERSION} {picture.fingerprint()} {side} {patch_px} {len(xy)}".encode())
    digest.update(np.ascontiguousarray(xy, dtype=np.float64).tobytes())
    path: Path = settings.cache_dir / "patches" / f"{digest.hexdigest()}.npy"
    shape = (len(xy), patch_px, patch_px, 3)
    if path.is_file():
        try:
            found = np.load(path, mmap_mode="r")
            if found.shape == shape and found.dtype == np.uint8:
                return found
        except (ValueError, OSError, EOFError):
            pass  # damaged: cut again
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.npy")
    try:
        store = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.uint8, shape=shape)
        for index, windows in picture.windows(xy, side):
            store[index] = resized(windows, patch_px, torch.device("cpu")).permute(0, 2, 3, 1).numpy()
        store.flush()
        del store
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
        picture.close()
    return np.load(path, mmap_mode="r")
