"""Image patches around each observation."""

from __future__ import annotations

from typing import Any

from stpredict.tl.learn.inputs._reader import Reader, Source


class Patches(Reader):
    """Squares of `config.patch_um` µm, `config.patch_px` pixels wide, from the images of the sections."""

    names = ("patches",)

    def read(self, source: Source) -> dict[str, Any]:
        """Row source of patches (n, h, w, 3) uint8."""
        import numpy as np

        from stpredict.pp._patches import patch_stack

        mask = np.zeros(source.adata.n_obs, dtype=bool)
        mask[source.rows.index] = True
        config = source.config
        stack = patch_stack(
            source.data, source.adata, mask,
            patch_um=config.patch_um, patch_px=config.patch_px, image=source.image, sample_key=source.sample_key,
            progress=source.progress,
        )  # fmt: skip
        return {"patches": stack}
