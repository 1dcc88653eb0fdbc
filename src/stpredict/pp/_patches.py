"""Image patches for networks that read pixels: cut once per section, kept as memory maps."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts._on_sections import is_cohort
from stpredict.core._file_rows import FileRows
from stpredict.core._settings import settings
from stpredict.core._turns import tidy_folder
from stpredict.core._validate import check_positive
from stpredict.io._image import (
    microns_per_pixel,
    positions_are_checked,
    section_image,
)
from stpredict.pp._patch_files import job_of, section_patches
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.cohorts import Cohort
    from stpredict.slots._container import Container

_MANY_PADDED = 0.05


def patches(
    data: Container | Cohort,
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

    if is_cohort(data):
        how: dict[str, Any] = {"sample_key": data.sample_key, "table_key": data.table_key, "check": check}
        tables = data.call(
            patches, (patch_um, patch_px), how | {"image": image, "progress": False}, write=False, progress=progress
        )
        return pd.concat(tables.values(), ignore_index=True)
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


class PatchStack:
    """Patches of several sections behind one index.

    Parameters
    ----------
    parts
        Array (n_section, px, px, 3) uint8 of each section, or rows of a file, which is open for the time of a read.
    part, row
        (n,) which part and which row of it each observation is.
    in_file
        Whether other processes find the files of the parts as well, as they do those of a cohort.
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
        parts: list[Any],
        part: np.ndarray,
        row: np.ndarray,
        *,
        cut: list[dict[str, Any]],
        keys: list[str],
        padded: dict[str, int],
        in_file: bool = False,
    ) -> None:
        self.parts, self.part, self.row, self.cut, self.keys, self.padded = parts, part, row, cut, keys, padded
        self.in_file = in_file

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
        """Files of an object in memory as arrays: what is sent to other processes is sent section by section, each once."""
        if self.in_file:
            return self.__dict__
        return self.__dict__ | {"parts": [part[:] for part in self.parts]}

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
        job = job_of(picture, name, xy, side, int(patch_px), check and positions_are_checked(adata, name))
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
        parts = [_unmapped(section_patches(job, bar.update)) for job in jobs]
    for entry, stored in zip(cut, parts, strict=True):
        entry["path"] = entry["path"] if isinstance(stored, FileRows) else ""
    return PatchStack(parts, part, row, cut=cut, keys=[job.path.stem for job in jobs], padded=padded)


def _unmapped(stored: np.ndarray) -> Any:
    """Rows of the file of a memory map, whose pages would count as memory of the process for as long as it is open."""
    if not isinstance(stored, np.memmap) or stored.filename is None:
        return stored
    return FileRows(stored.filename, stored.dtype, stored.shape, stored.offset)


def stacked(stacks: Sequence[PatchStack], sections: Sequence[np.ndarray]) -> PatchStack:
    """Patches of sections that were cut one after the other, whose rows (n_section,) among all are given; their files stay."""
    n = sum(map(len, sections))
    part, row = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    first = 0
    for stack, rows in zip(stacks, sections, strict=True):
        part[rows], row[rows] = first + stack.part, stack.row
        first += len(stack.parts)
    return PatchStack(
        [each for stack in stacks for each in stack.parts], part, row,
        cut=[entry for stack in stacks for entry in stack.cut], keys=[key for stack in stacks for key in stack.keys],
        padded={name: count for stack in stacks for name, count in stack.padded.items()}, in_file=True,
    )  # fmt: skip
