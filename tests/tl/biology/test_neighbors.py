from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pynndescent
import pytest
import scanpy as sc
from scipy.sparse import csr_array, csr_matrix
from sklearn.neighbors import kneighbors_graph

from stpredict import pl

N, K = 9000, 15  # scanpy searches approximately from 8,192 observations on


@pytest.mark.parametrize("kind", [csr_array, csr_matrix])  # what pynndescent returns from 0.7 on, and before
def test_umap_of_many_observations_has_the_nearest_neighbors(monkeypatch, kind: type) -> None:
    """The graph that UMAP is laid out by. Search and layout, which compile for a minute, are those of others."""
    graphs = []

    class Search:
        def __init__(self, n_neighbors: int, **_: object) -> None:
            self.n_neighbors = n_neighbors

        def fit_transform(self, points: np.ndarray) -> csr_array | csr_matrix:
            return kind(kneighbors_graph(points, self.n_neighbors, mode="distance", include_self=True))

    def lay_out(holder: ad.AnnData, **_: object) -> None:
        graphs.append(holder.obsp["connectivities"])
        holder.obsm["X_umap"] = holder.obsm["X_pca"][:, :2]

    monkeypatch.setattr(pynndescent, "PyNNDescentTransformer", Search)
    monkeypatch.setattr(sc.tl, "umap", lay_out)
    features = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
    adata = ad.AnnData(obs=pd.DataFrame({"sample": "S1"}, index=map(str, range(N))), obsm={"X_tiny": features})
    pl.features(adata, "tiny", method="umap")
    near = kneighbors_graph((features - features.mean(axis=0)) / features.std(axis=0), K - 1)
    assert (near > (graphs[0] > 0)).nnz < 0.01 * near.nnz
