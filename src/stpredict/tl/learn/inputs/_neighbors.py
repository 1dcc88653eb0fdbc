"""Features of the tiles around each observation."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.core._validate import check_finite
from stpredict.slots._booleans import read_bool
from stpredict.slots._checks import check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix, single_precision
from stpredict.tl.learn.inputs._reader import Reader, Source


class Neighbors(Reader):
    """`obsm["X_{encoder}_neighbors"]` (n_obs, n_neighbors, d), and beside it which of these tiles exist."""

    names = ("neighbors", "neighbor_mask")

    def read(self, source: Source) -> dict[str, Any]:
        """Features (n, n_neighbors, d) float32 and mask (n, n_neighbors) bool; several encoders side by side."""
        parts, masks = [], []
        for key in source.slots:
            slots = Key.neighbors(key), Key.neighbor_mask(key)
            for slot in slots:
                call = f"run stp.pp.neighbor_features(adata, {key.removeprefix('X_')!r})"
                check_obsm(source.adata, slot, call)
            values, mask = (source.adata.obsm[slot][source.rows.index] for slot in slots)
            if values.ndim != 3 or mask.shape != values.shape[:2]:
                raise ValueError(
                    f"expected neighbors (n_obs, n_neighbors, d) in obsm[{slots[0]!r}] and their mask beside them; found "
                    f"{values.shape} and {mask.shape}"
                )
            mask = read_bool(mask.ravel(), f"obsm[{slots[1]!r}]").reshape(mask.shape)
            values = numeric_matrix(values, f"obsm[{slots[0]!r}]")
            values = single_precision(np.where(mask[..., None], values, 0), f"features in obsm[{slots[0]!r}]")
            check_finite(values.reshape(len(values), -1), f"features in obsm[{slots[0]!r}]", "compute them again")
            parts.append(values)
            masks.append(mask)
        return {"neighbors": np.concatenate(parts, axis=2), "neighbor_mask": np.logical_and.reduce(masks)}
