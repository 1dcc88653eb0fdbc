"""Standardize features within groups of rows."""

from __future__ import annotations

import numpy as np

from stpredict.core._constant import constant


def within_sections(features: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Standardize features (n, d) within each section; what does not vary there becomes 0."""
    return standardized_by(features, sample, np.ones(len(sample), dtype=bool))


def standardized_by(features: np.ndarray, sample: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Standardize features (n, d) within each section by some of its rows, mask (n,), or by all where none is among them."""
    scaled = features.astype(np.float64)
    for name in np.unique(sample):
        rows = sample == name
        known = scaled[rows & by] if (rows & by).any() else scaled[rows]
        mean, std = known.mean(axis=0), known.std(axis=0)
        scaled[rows] = (scaled[rows] - mean) / np.where(constant(std, mean), np.inf, std)
    return scaled.astype(np.float32)
