"""Standardize features within groups of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.core._constant import constant
from stpredict.core._file_rows import FileTable
from stpredict.core._moments import column_moments, row_slices


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
        mean, scale = section_scales(features, rows[by[rows]] if by[rows].any() else rows)
        for part in row_slices(len(rows)):
            scaled[rows[part]] = (features[rows[part]] - mean) / scale
    return scaled


def standardized(features: Any, sample: np.ndarray, by: np.ndarray) -> Any:
    """Standardize features (n, d), in memory or in files, within each section by some of its rows, mask (n,)."""
    if isinstance(features, FileTable):
        return standardized_in_file(features, sample, by)
    return standardized_by(features, sample, by)


def standardized_in_file(features: FileTable, sample: np.ndarray, by: np.ndarray) -> FileTable:
    """The same of rows in files: their moments are taken now, and they are standardized when they are read."""
    _, section = np.unique(sample, return_inverse=True)
    found = []
    for code in range(int(section.max(initial=-1)) + 1):
        rows = np.flatnonzero(section == code)
        found.append(section_scales(features, rows[by[rows]] if by[rows].any() else rows))
    mean, scale = (
        (np.stack(each) for each in zip(*found, strict=True)) if found else (np.zeros((0, features.shape[1])),) * 2
    )
    return FileTable(features.parts, features.rows, group=section, mean=mean, scale=scale)


def section_scales(features: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is taken off features (n, d) of a section and what they are divided by, (d,) both, from some rows of it."""
    mean, std = column_moments(features, rows)
    return mean, np.where(constant(std, mean), np.inf, std)
