"""Over-representation of sets of genes among chosen ones."""

from __future__ import annotations

from typing import Any

import numpy as np


def over_representation(member: Any, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Genes in common of sets and lists, and how improbable as many are by chance.

    Parameters
    ----------
    member
        Sets (n_terms, n_genes), 0 and 1, dense or sparse, over the genes of the background.
    chosen
        Lists (n_lists, n_genes), 0 and 1.

    Returns
    -------
    Hits (n_lists, n_terms) int64, and P(as many or more hits) of the hypergeometric distribution, of the same shape.
    """
    from scipy.stats import hypergeom

    chosen = np.asarray(chosen, dtype=np.float64)
    hits = np.rint((member.astype(np.float64) @ chosen.T).T).astype(np.int64)
    drawn = np.rint(chosen.sum(axis=1, keepdims=True)).astype(np.int64)
    size = np.asarray(member.sum(axis=1)).ravel().astype(np.int64)
    # Few distinct triples stand for millions of pairs: the distribution is asked once for each.
    size, drawn = np.broadcast_to(size, hits.shape), np.broadcast_to(drawn, hits.shape)
    triples = np.stack([hits.ravel(), size.ravel(), drawn.ravel()], axis=1)
    unique, inverse = np.unique(triples, axis=0, return_inverse=True)
    p = hypergeom.sf(unique[:, 0] - 1, member.shape[1], unique[:, 1], unique[:, 2])
    return hits, np.asarray(p)[inverse.ravel()].reshape(hits.shape)
