"""The tiles of one slide summarized by a few tokens."""

from __future__ import annotations

import numpy as np

_CHUNK = 4096  # tiles whose features are added up at a time


def tile_order(features: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
    """Order of tiles (n,) that depends on where they lie and what they show, never on how they are listed.

    Parameters
    ----------
    features
        (n, d) float32.
    positions
        (n, 2) coordinates, which come first; tiles at the same place, or without one, are ordered by their features.
    """
    by_content = np.empty(len(features), dtype=np.int64)
    by_content[np.argsort(_as_records(features), kind="stable")] = np.arange(len(features))
    if positions is None:
        return np.argsort(by_content, kind="stable")
    return np.lexsort((by_content, positions[:, 1], positions[:, 0]))


class MeanOfTiles:
    """The mean of features that come in chunks: only their sum, in double precision, and their number are kept."""

    def __init__(self) -> None:
        self.total: np.ndarray | float = 0.0
        self.n = 0

    def add(self, features: np.ndarray) -> None:
        """Take a chunk (n, d)."""
        self.total = self.total + features.sum(axis=0, dtype=np.float64)
        self.n += len(features)

    @property
    def mean(self) -> np.ndarray:
        """Mean (d,) float32 of what was taken."""
        return np.asarray(self.total / max(self.n, 1), dtype=np.float32)


def mean_token(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of tiles (n, d) as the one token (1, d) of a slide, and their number (1,), in chunks."""
    running = MeanOfTiles()
    for start in range(0, len(features), _CHUNK):
        running.add(features[start : start + _CHUNK])
    return running.mean[None], np.array([running.n], dtype=np.float32)


def kmeans_tokens(features: np.ndarray, n_tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cluster tiles by k-means and average each cluster.

    Identical tiles always share a cluster, so that a slide with no more different tiles than tokens keeps each of them
    as a token. The result depends on the order of the tiles (see :func:`tile_order`), but not on the number of threads.

    Parameters
    ----------
    features
        (n, d) finite float32, at least one row.
    n_tokens
        Clusters asked for.
    seed
        Random seed for the first centers.

    Returns
    -------
    Tokens (k, d) float32 and the tiles behind each (k,) float32, the largest cluster first; `k <= n_tokens`.
    """
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    _, first, member, count = np.unique(
        _as_records(features), return_index=True, return_inverse=True, return_counts=True
    )
    # Numbered by first occurrence: the order by content would let a change in the last bit change the first centers.
    rank = np.argsort(np.argsort(first))
    distinct, count = np.sort(first), count[np.argsort(first)]
    label = np.arange(len(distinct))
    if len(distinct) > n_tokens:
        weight = None if len(distinct) == len(features) else count.astype(features.dtype)
        with threadpool_limits(limits=1), warnings.catch_warnings():
            # Fewer clusters than asked for are padded like a slide of few tiles.
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            model = KMeans(n_tokens, n_init=1, random_state=seed, algorithm="lloyd")
            label = model.fit(features[distinct], sample_weight=weight).labels_
    _, label = np.unique(label, return_inverse=True)
    label = label[rank[member.ravel()]]

    order = np.argsort(label, kind="stable")
    size = np.bincount(label)
    starts = np.concatenate([[0], np.cumsum(size)[:-1]])
    # Sums in double precision, a slice of the features at a time.
    tokens = np.empty((len(size), features.shape[1]), dtype=np.float32)
    for column in range(0, features.shape[1], 256):
        part = features[order, column : column + 256].astype(np.float64)
        tokens[:, column : column + 256] = np.add.reduceat(part, starts, axis=0) / size[:, None]
    largest = np.lexsort((tokens[:, 0], -size))
    return tokens[largest], size[largest].astype(np.float32)


def _as_records(values: np.ndarray) -> np.ndarray:
    """Rows as single items that sort and compare by content; -0 counts as 0."""
    rows = np.ascontiguousarray(values + np.float32(0), dtype=np.float32)
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
