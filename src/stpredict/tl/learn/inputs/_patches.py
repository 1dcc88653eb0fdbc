"""Image patches around each observation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts._section_pictures import SectionPictures
from stpredict.tl.learn.inputs._reader import Reader, Source

if TYPE_CHECKING:
    from stpredict.pp._patches import PatchStack


class Patches(Reader):
    """Squares of `config.patch_um` µm, `config.patch_px` pixels wide, from the images of the sections."""

    names = ("patches",)

    def read(self, source: Source) -> dict[str, Any]:
        """Row source of patches (n, h, w, 3) uint8; of a cohort on disk they are cut one section after the other."""
        from stpredict.pp._patches import stacked

        rows = source.rows
        if not isinstance(source.image, SectionPictures):
            return {"patches": _cut(source, rows.index)}
        sections = [np.flatnonzero(rows.sample == name) for name in np.unique(rows.sample)]
        return {"patches": stacked([_cut(source, rows.index[own]) for own in sections], sections)}


def _cut(source: Source, index: np.ndarray) -> PatchStack:
    from stpredict.pp._patches import patch_stack

    mask = np.zeros(source.adata.n_obs, dtype=bool)
    mask[index] = True
    return patch_stack(
        source.data, source.adata, mask,
        patch_um=source.config.patch_um, patch_px=source.config.patch_px, image=source.image,
        sample_key=source.sample_key, progress=source.progress,
    )  # fmt: skip
