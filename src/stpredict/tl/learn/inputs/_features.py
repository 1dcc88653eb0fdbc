"""Image features of each observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._constant import constant
from stpredict.core._moments import column_moments, row_slices
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


def within_sections(features: np.ndarray, sample: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Standardize features (n, d) within each section; what does not vary there becomes 0."""
    return standardized_by(features, sample, np.ones(len(sample), dtype=bool), out)


def standardized_by(
    features: np.ndarray, sample: np.ndarray, by: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Standardize features (n, d) within each section by some of its rows, mask (n,), or by all where none is among them.

    Written to `out` (n, d) float32, which may be the features themselves, or to a new array.
    """
    scaled = np.empty(features.shape, dtype=np.float32) if out is None else out
    _, section = np.unique(sample, return_inverse=True)
    for code in range(int(section.max(initial=-1)) + 1):
        rows = np.flatnonzero(section == code)
        mean, std = column_moments(features, rows[by[rows]] if by[rows].any() else rows)
        scale = np.where(constant(std, mean), np.inf, std)
        for part in row_slices(len(rows)):
            scaled[rows[part]] = (features[rows[part]] - mean) / scale
    return scaled
