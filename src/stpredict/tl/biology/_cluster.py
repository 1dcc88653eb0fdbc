"""Components, neighbors and Leiden: what domains are made of, arrays in and arrays out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of
from stpredict.tl.biology._neighbors import neighbors

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

_MAX_RESOLUTION = 64.0
_MIN_RESOLUTION = 1e-3
_STEPS = 20
_AROUND = 8  # neighbors on a square lattice; a hexagonal one has six
_TYPICAL = 6  # whose distance tells how far neighbors lie
_FARTHEST = 1.25  # of that distance: the second ring of a hexagonal lattice lies at 1.73, of a square one at 1.41


def check_smooth(smooth: float) -> None:
    """Raise unless the weight of the neighbors is at least 0 and below 1."""
    if isinstance(smooth, bool) or not 0 <= smooth < 1:
        raise ValueError(f"expected smooth from 0 to below 1, the weight of the neighbors' mean; found {smooth!r}")


def principal_components(matrix: Any, n_pcs: int, seed: int) -> np.ndarray:
    """Principal components (n, k) of a matrix (n, n_genes), as many as there can be up to `n_pcs`."""
    import scanpy as sc
    from anndata import AnnData

    section = AnnData(matrix if matrix.dtype.kind == "f" else matrix.astype(np.float32))
    sc.pp.pca(section, n_comps=min(n_pcs, *(size - 1 for size in section.shape)), random_state=seed)
    components: np.ndarray = section.obsm["X_pca"]
    return components


def neighbor_means(adata: AnnData, sample_key: str, what: str) -> csr_matrix:
    """Weights (n, n) that take the mean over the observations around each one in its section; an empty row has none.

    Neighbors are the nearest eight that lie no farther than 1.25 times the usual distance of the sixth: six on a hexagonal
    lattice, eight on a square one, and none across a gap.
    """
    import pandas as pd
    from scipy.sparse import csr_matrix
    from scipy.spatial import KDTree

    check_obs(adata, sample_key, f"name the sections for `{what}=`, or pass `sample_key=`")
    check_obsm(adata, Key.SPATIAL, f"`{what}=` needs positions: read the data with stp.io")
    positions = positions_of(adata)
    codes = pd.factorize(adata.obs[sample_key].astype(str))[0]
    starts, ends = [], []
    for code in range(codes.max() + 1):
        rows = np.flatnonzero(codes == code)
        if len(rows) < 2:
            continue
        distance, nearest = KDTree(positions[rows]).query(positions[rows], k=min(_AROUND + 1, len(rows)))
        usual = np.median(distance[:, min(_TYPICAL, distance.shape[1] - 1)])
        near = (distance <= _FARTHEST * usual) & (nearest != np.arange(len(rows))[:, None])
        starts.append(rows[np.nonzero(near)[0]])
        ends.append(rows[nearest[near]])
    n = adata.n_obs
    start, end = (np.concatenate(part) if part else np.empty(0, dtype=np.int64) for part in (starts, ends))
    share = 1.0 / np.maximum(np.bincount(start, minlength=n), 1)
    return csr_matrix((share[start], (start, end)), shape=(n, n))


def smoothed(components: np.ndarray, weights: csr_matrix | None, rows: np.ndarray, smooth: float) -> np.ndarray:
    """Components (n, k) with this weight of the mean of the neighbors among the same rows; own ones where there is none."""
    if weights is None or not smooth:
        return components
    own = weights[rows][:, rows]
    share = np.asarray(own.sum(axis=1)).ravel() * smooth
    mixed = (1 - share)[:, None] * components + smooth * (own @ components)
    return np.asarray(mixed, dtype=np.float32)


def neighbor_graph(components: np.ndarray, n_neighbors: int, seed: int) -> csr_matrix:
    """Connectivities (n, n) of the nearest neighbors in components, as scanpy has them."""
    graph: csr_matrix = neighbors(components, n_neighbors, seed).obsp["connectivities"]
    return graph


def leiden(graph: csr_matrix, resolution: float, seed: int) -> np.ndarray:
    """Number of the community of each observation (n,), the largest first."""
    import scanpy as sc
    from anndata import AnnData

    holder = AnnData(shape=(graph.shape[0], 0))
    sc.tl.leiden(
        holder, resolution, adjacency=graph, flavor="igraph", n_iterations=2, directed=False, random_state=seed
    )
    return holder.obs["leiden"].to_numpy().astype(np.int64)


class Communities:
    """Leiden on one graph (n, n) at many resolutions: the graph is handed over once."""

    def __init__(self, graph: csr_matrix) -> None:
        import igraph
        from scipy.sparse import triu

        upper = triu(graph.maximum(graph.T), k=1).tocoo()
        self._graph = igraph.Graph(graph.shape[0], np.column_stack([upper.row, upper.col]))
        self._weights = upper.data.astype(np.float64).tolist()

    def __call__(self, resolution: float, seed: int) -> np.ndarray:
        """Community of each observation (n,)."""
        import random

        import igraph

        igraph.set_random_number_generator(random.Random(seed))
        try:
            found = self._graph.community_leiden(
                objective_function="modularity", weights=self._weights, resolution=resolution, n_iterations=2
            )
        finally:
            igraph.set_random_number_generator(random)
        return np.asarray(found.membership, dtype=np.int64)


def cluster(
    graph: csr_matrix, components: np.ndarray, n_domains: int | None, resolution: float, min_size: int, seed: int
) -> tuple[np.ndarray, float, list[tuple[int, int]]]:
    """Domain of each observation (n,), the resolution that was used, and what was merged: domain it went to, and number."""

    def found(value: float) -> tuple[np.ndarray, list[tuple[int, int]]]:
        return without_small(leiden(graph, value, seed), components, min_size)

    if n_domains is None:
        labels, merged = found(resolution)
        return labels, float(resolution), merged
    return _search(found, n_domains)


def without_small(
    labels: np.ndarray, components: np.ndarray, min_size: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Labels (n,) without those of few observations, the largest first, and what was merged into which.

    The smallest goes first, into the domain whose mean components are nearest; the mean of that one is then another.
    """
    labels = np.unique(labels, return_inverse=True)[1]
    size = np.bincount(labels).astype(float)
    total = np.stack([np.bincount(labels, column) for column in components.T], axis=1)
    merged: list[tuple[int, int]] = []
    into = np.arange(len(size))
    while (left := np.flatnonzero(size)).size > 1 and size[left].min() < min_size:
        small = left[np.argmin(size[left])]
        others = left[left != small]
        mean = total / np.maximum(size, 1)[:, None]
        home = others[np.argmin(((mean[others] - mean[small]) ** 2).sum(axis=1))]
        merged.append((int(home), int(size[small])))
        size[home] += size[small]
        total[home] += total[small]
        size[small] = 0
        into[into == small] = home
    order = np.argsort(-size, kind="stable")[: int((size > 0).sum())]
    rank = np.empty(len(size), dtype=np.int64)
    rank[order] = np.arange(len(order))
    # A domain that took others in may have been taken in itself: `into` says where it ended.
    return rank[into[labels]], [(int(rank[into[home]]), n) for home, n in merged]


def _search(
    found: Callable[[float], tuple[np.ndarray, list[tuple[int, int]]]], n_domains: int
) -> tuple[np.ndarray, float, list[tuple[int, int]]]:
    """Bisect the logarithm of the resolution until the number of domains is met; the nearest number otherwise."""
    best: tuple[int, np.ndarray, float, list[tuple[int, int]]] | None = None
    low, high = np.log(_MIN_RESOLUTION), np.log(_MAX_RESOLUTION)
    middle = 0.0
    for _ in range(_STEPS):
        used = float(np.exp(middle))
        labels, merged = found(used)
        n_found = len(np.unique(labels))
        miss = abs(n_found - n_domains)
        if best is None or miss < best[0]:
            best = (miss, labels, used, merged)
        if miss == 0:
            break
        low, high = (middle, high) if n_found < n_domains else (low, middle)
        middle = (low + high) / 2
    if best is None:
        raise RuntimeError("the search for a resolution made no step")
    return best[1:]
