"""Image features of each observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._standardized import within_sections
from stpredict.core._validate import check_finite
from stpredict.slots._features import feature_matrix
from stpredict.slots._matrix import single_precision
from stpredict.tl.learn.inputs._reader import Reader, Scaling, Source

if TYPE_CHECKING:
    from anndata import AnnData


class Features(Reader):
    """Slots of `obsm`, or `X` of a table of tiles, side by side."""

    names = ("features",)

    def read(self, source: Source) -> dict[str, Any]:
        """Features (n, d) float32; none where only bags are there."""
        slots = [key for key in source.slots if feature_matrix(source.adata, key) is not None]
        if not slots:
            return {}
        rows = source.rows
        return {"features": read_features(source.adata, slots, source.scaling, rows.index, rows.sample)}


def read_features(
    adata: AnnData, keys: Sequence[str], scaling: Scaling, index: np.ndarray, sample: np.ndarray
) -> np.ndarray:
    """Features (n, d) float32 of some rows; with `scaling="section"` standardized within each section."""
    parts = []
    for key in keys:
        whole = feature_matrix(adata, key)
        assert whole is not None  # feature_keys or check_features came before
        values = single_precision(whole[index], f"features in obsm[{key!r}]")
        check_finite(values, f"features in obsm[{key!r}]", "run stp.pp.image_features again for these sections")
        parts.append(values)
    features = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    # What was read is nobody else's, and is standardized where it stands.
    return within_sections(features, sample, out=features) if scaling == "section" else features
