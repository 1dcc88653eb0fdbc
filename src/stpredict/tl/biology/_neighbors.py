"""Nearest neighbors by scanpy, whatever the number of observations and the version of its search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from scipy.sparse import csr_matrix

_APPROXIMATE_FROM = 8192  # observations from which on scanpy searches approximately


def neighbors(components: np.ndarray, n_neighbors: int, seed: int) -> AnnData:
    """An object with the components (n, d) as `obsm["X_pca"]` and what :func:`scanpy.pp.neighbors` writes."""
    import scanpy as sc
    from anndata import AnnData

    holder = AnnData(obsm={"X_pca": components})
    k = min(n_neighbors, len(components) - 1)
    search = None if len(components) < _APPROXIMATE_FROM else _Descent(k, seed)
    sc.pp.neighbors(holder, n_neighbors=k, use_rep="X_pca", random_state=seed, transformer=search)
    return holder


class _Descent:
    """Approximate nearest neighbors as scanpy finds them, for many observations.

    pynndescent from 0.7 on returns a sparse array, which scanpy 1.11 cannot read: here it is the matrix of before.
    """

    def __init__(self, n_neighbors: int, seed: int) -> None:
        self.n_neighbors, self.seed = n_neighbors, seed

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What scanpy asks of a search."""
        return {"n_neighbors": self.n_neighbors}

    def fit_transform(self, components: np.ndarray) -> csr_matrix:
        """Distances (n, n) to the nearest neighbors; numbers of trees and rounds are those of UMAP."""
        import numpy as np
        from pynndescent import PyNNDescentTransformer
        from scipy.sparse import csr_matrix

        n = len(components)
        search = PyNNDescentTransformer(
            n_neighbors=self.n_neighbors, random_state=self.seed, n_trees=min(64, 5 + round(n**0.5 / 20)),
            n_iters=max(5, round(float(np.log2(n)))),
        )  # fmt: skip
        return csr_matrix(search.fit_transform(components))
