"""Which observations look alike: nearest neighbors in image features, among observations of other groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stpredict.core._file_rows import in_files
from stpredict.core._moments import column_moments, row_slices


def components(features: np.ndarray, n_components: int) -> np.ndarray:
    """First principal components (n, k) of features (n, d) that are on one scale; all of them where there are fewer."""
    from sklearn.decomposition import PCA

    k = min(n_components, features.shape[1], len(features) - 1)
    if in_files(features):
        return _components_by_blocks(features, k)
    return np.asarray(PCA(k, svd_solver="covariance_eigh").fit_transform(features.astype(np.float64)))


def _components_by_blocks(features: Any, k: int) -> np.ndarray:
    """The same, up to signs, of features that are in files: no more of them in memory than a block."""
    mean, _ = column_moments(features)
    products = np.zeros((features.shape[1], features.shape[1]))
    for part in row_slices(len(features)):
        block = features[part] - mean
        products += block.T @ block
    _, vectors = np.linalg.eigh(products)
    first = vectors[:, ::-1][:, :k]
    return np.concatenate([(features[part] - mean) @ first for part in row_slices(len(features))])


def neighbors_across(points: np.ndarray, sides: Sequence[tuple[np.ndarray, np.ndarray]], n_neighbors: int) -> Any:
    """Link observations to those that lie nearest in image space.

    Parameters
    ----------
    points
        Positions in image space (n, k).
    sides
        Pairs of row numbers: those that look for neighbors, and those among which they look.
    n_neighbors
        Number of neighbors, or all where there are fewer.

    Returns
    -------
    Weights (n, n), sparse; every row that looks sums to 1.
    """
    from scipy import sparse
    from sklearn.neighbors import NearestNeighbors

    rows, columns, weights = [], [], []
    for seeking, there in sides:
        k = min(n_neighbors, len(there))
        search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points[there])
        found = search.kneighbors(points[seeking], return_distance=False)
        rows.append(np.repeat(seeking, k))
        columns.append(there[found.ravel()])
        weights.append(np.full(len(seeking) * k, 1 / k, dtype=np.float32))
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(entries, shape=(len(points), len(points)))
