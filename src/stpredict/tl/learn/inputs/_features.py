"""Image features of each observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import FileRows, FileSparseRows, FileTable, rows_in_file
from stpredict.core._standardized import standardized_in_file, within_sections
from stpredict.core._validate import check_finite, few
from stpredict.slots._features import feature_matrix
from stpredict.slots._matrix import single_precision
from stpredict.tl.learn.inputs._reader import Reader, Scaling, Source

if TYPE_CHECKING:
    from anndata import AnnData

_CALL = "run stp.pp.image_features again for these sections"


class Features(Reader):
    """Slots of `obsm`, or `X` of a table of tiles, side by side."""

    names = ("features",)

    def read(self, source: Source) -> dict[str, Any]:
        """Features (n, d) float32; none where only bags are there."""
        slots = [key for key in source.slots if feature_matrix(source.adata, key) is not None]
        if not slots:
            return {}
        rows = source.rows
        return {"features": features_of(source.adata, slots, source.scaling, rows.index, rows.sample)}


def features_of(adata: AnnData, keys: Sequence[str], scaling: Scaling, index: np.ndarray, sample: np.ndarray) -> Any:
    """Features (n, d) float32 of some rows, as :func:`read_features` has them; where they are in files they stay there."""
    wholes = [rows_in_file(feature_matrix(adata, key)) for key in keys]
    if not (in_file := [whole for whole in wholes if whole is not None]):
        return read_features(adata, keys, scaling, index, sample)
    if len(in_file) < len(keys):
        raise ValueError(
            f"expected all features on disk, or none; found some of {few(keys)} in memory; map all of them"
        )
    return _in_files(in_file, keys, scaling, index, sample)


def _in_files(
    parts: Sequence[FileRows | FileSparseRows],
    keys: Sequence[str],
    scaling: Scaling,
    index: np.ndarray,
    sample: np.ndarray,
) -> FileTable:
    """The same features as :func:`read_features` gives, read when they are asked for; their moments are in memory."""
    raw = FileTable(parts, index)
    check_finite(raw, f"features in {few([f'obsm[{key!r}]' for key in keys])}", _CALL)  # type: ignore[arg-type]
    if scaling != "section":
        return raw
    return standardized_in_file(raw, sample, np.ones(len(raw), dtype=bool))


def read_features(
    adata: AnnData, keys: Sequence[str], scaling: Scaling, index: np.ndarray, sample: np.ndarray
) -> np.ndarray:
    """Features (n, d) float32 of some rows; with `scaling="section"` standardized within each section."""
    parts = []
    for key in keys:
        whole = feature_matrix(adata, key)
        assert whole is not None  # feature_keys or check_features came before
        values = single_precision(whole[index], f"features in obsm[{key!r}]")
        check_finite(values, f"features in obsm[{key!r}]", _CALL)
        parts.append(values)
    features = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    # What was read is nobody else's, and is standardized where it stands.
    return within_sections(features, sample, out=features) if scaling == "section" else features
