"""Samples (n_obs, n_samples, n_genes) and what they are compared with, checked and in blocks of genes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stpredict.metrics._pairs import check_matrix, dense, gene_blocks


def check_samples(truth: Any, samples: Any, *, means: bool = False) -> tuple[Any, np.ndarray]:
    """Return truth (n_obs, n_genes) and samples (n_obs, n_samples, n_genes), or say how they differ.

    Where `means` are allowed, a prediction (n_obs, n_genes) is one sample of each observation.
    """
    truth, drawn = check_matrix(truth, "truth"), np.asarray(samples)
    if drawn.dtype.kind not in "fiub":
        raise TypeError(f"expected samples to hold real numbers; found {drawn.dtype}")
    if means and drawn.ndim == 2:
        drawn = drawn[:, None]
    if drawn.ndim != 3 or drawn.shape[1] == 0 or (drawn.shape[0], drawn.shape[2]) != truth.shape:
        raise ValueError(
            f"expected samples of shape (n_obs, n_samples, n_genes) for a truth of shape {truth.shape}; found "
            f"{np.shape(samples)}; take the same observations and genes of both"
        )
    return truth, drawn


def sample_blocks(truth: Any, samples: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Genes, their truth (n_obs, g) and samples (n_obs, n_samples, g) in float64, block by block."""
    n_obs, n_samples, n_genes = samples.shape
    for genes in gene_blocks((n_obs * n_samples, n_genes), copies=2):
        yield genes, dense(truth, genes), samples[:, :, genes].astype(np.float64)
