"""Rows for measures whose time grows with the square of their number: as many of each group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._checks import check_obsm
from stpredict.slots._features import feature_matrix
from stpredict.slots._matrix import dense_matrix
from stpredict.slots._rows import Rows, rows_of

if TYPE_CHECKING:
    from anndata import AnnData


def spread_rows(group: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Places (at most `n`,) of rows, sorted: all where there are no more, else about as many of each group (n_rows,).

    What small groups do not fill goes to the larger ones.
    """
    if len(group) <= n:
        return np.arange(len(group))
    place = rng.permutation(len(group))
    codes = np.unique(group[place], return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    turn = np.empty(len(group), dtype=np.int64)  # how many of its group come before each
    turn[order] = np.arange(len(group)) - np.searchsorted(codes[order], codes[order])
    return np.sort(place[np.argsort(turn, kind="stable")[:n]])


def full_rows(adata: AnnData, key: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a slot of `obsm` that hold values, among `rows` (n,), and these values (n_full, d) float64.

    Rows of NaN are those that nobody embedded or predicted. Columns with a NaN in any other row, as of genes that a fold did
    not select, are left out.
    """
    found = feature_matrix(adata, key)
    if found is None:
        check_obsm(adata, key, "name a slot with features or predictions")
        raise KeyError(f"expected values in obsm[{key!r}]; found none")
    values = dense_matrix(found[rows], f"obsm[{key!r}]").astype(np.float64)
    if values.ndim != 2:
        raise ValueError(f"expected obsm[{key!r}] of shape (n_obs, d); found {(adata.n_obs, *values.shape[1:])}")
    full = np.isfinite(values).any(axis=1)
    values = values[full]
    values = values[:, np.isfinite(values).all(axis=0)]
    if not values.size:
        raise ValueError(
            f"expected finite values in obsm[{key!r}]; found none in the rows asked for; compute them first"
        )
    return rows[full], values


def sampled_rows(
    adata: AnnData, key: str, rows: np.ndarray, n: int, seed: int, *, sample_key: str, patient_key: str
) -> tuple[Rows, np.ndarray]:
    """Rows that hold values, at most `n` and as many of each section, and these values standardized (n, d)."""
    index, values = full_rows(adata, key, rows)
    mask = np.zeros(adata.n_obs, dtype=bool)
    mask[index] = True
    of = rows_of(adata, mask, sample_key=sample_key, patient_key=patient_key)
    kept = spread_rows(of.sample, n, np.random.default_rng(seed))
    return of.take(kept), standardized(values[kept])


def standardized(values: np.ndarray) -> np.ndarray:
    """Columns (n, d) with mean 0 and standard deviation 1; what does not vary becomes 0."""
    from stpredict.core._constant import constant

    mean, std = values.mean(axis=0), values.std(axis=0)
    return (values - mean) / np.where(constant(std, mean), np.inf, std)
