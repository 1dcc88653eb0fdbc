"""Targets of training rows whose unit follows from the section: no other row of the section has a part in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.metrics._log_normalize import log_normalize
from stpredict.slots._depth import counted_rows, depth_of, section_codes, section_residuals
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix
from stpredict.slots._rows import Rows

if TYPE_CHECKING:
    from anndata import AnnData


def within_training(
    adata: AnnData, values: np.ndarray, genes: np.ndarray, rows: Rows, normalization: Mapping[str, Any], sample_key: str
) -> np.ndarray:
    """Values (n, n_genes) of training rows, computed again in sections of which only a part is trained on.

    Proportions of genes and median depths are those of the training rows there. Where whole sections are trained on, the
    values are those of `X`, and are returned as they are.
    """
    if not follows_section(adata, normalization):
        return values
    depth = depth_of(adata)
    assert depth is not None  # there are counts
    counts = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")
    counted = counted_rows(adata, counts, depth)
    _, section = section_codes(adata, sample_key)
    chosen = np.zeros(adata.n_obs, dtype=bool)
    chosen[rows.index] = rows.measured
    split = np.flatnonzero(np.bincount(section[counted & ~chosen], minlength=section.max() + 1) > 0)
    again = np.flatnonzero(np.isin(section[rows.index], split) & rows.measured)
    if not len(again):
        return values
    at = rows.index[again]
    found = _values(counts[at][:, genes], depth[at], section[at], counted[at], normalization)
    values = values.copy()
    values[again] = found.toarray() if hasattr(found, "toarray") else found
    return values


def has_part_sections(adata: AnnData, rows: Rows, normalization: Mapping[str, Any], sample_key: str) -> bool:
    """Whether only a part of a section is trained on, in a unit that follows from the section."""
    if not follows_section(adata, normalization):
        return False
    depth = depth_of(adata)
    assert depth is not None  # there are counts
    counts = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")
    chosen = np.zeros(adata.n_obs, dtype=bool)
    chosen[rows.index] = rows.measured
    _, section = section_codes(adata, sample_key)
    left_out = counted_rows(adata, counts, depth) & ~chosen
    return bool(np.isin(section[rows.index[rows.measured]], section[left_out]).any())


def training_part(
    adata: AnnData, train: np.ndarray, normalization: Mapping[str, Any], sample_key: str
) -> tuple[AnnData, np.ndarray]:
    """The object and the training rows (n_obs,) in it that genes are selected on.

    Where only a part of a section is trained on, a new object of the training rows, with values of their own.
    """
    if not follows_section(adata, normalization):
        return adata, train
    depth, (_, section) = depth_of(adata), section_codes(adata, sample_key)
    counts = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")
    assert depth is not None  # there are counts
    counted = counted_rows(adata, counts, depth)
    if not np.isin(section[counted & ~train], section[train]).any():
        return adata, train
    part = adata[train].copy()
    part.X = _values(part.layers[Key.COUNTS], depth[train], section[train], counted[train], normalization)
    return part, np.ones(part.n_obs, dtype=bool)


def follows_section(adata: AnnData, normalization: Mapping[str, Any]) -> bool:
    """Whether the unit of the values follows from what else was measured in the section."""
    of_section = normalization.get("method") == "pearson_residuals" or normalization.get("target_sum") == "median"
    return of_section and Key.COUNTS in adata.layers


def _values(
    counts: Any, depth: np.ndarray, section: np.ndarray, counted: np.ndarray, normalization: Mapping[str, Any]
) -> Any:
    """Values (n, n_genes) of some rows by themselves."""
    if normalization["method"] == "pearson_residuals":
        settings = {name: normalization.get(name) for name in ("theta", "clip")}
        return section_residuals(counts, depth, section, counted, **settings)  # type: ignore[arg-type]
    codes, place = np.unique(section, return_inverse=True)
    medians = [depth[(section == code) & counted] for code in codes]
    sums = np.array([np.median(depths) if len(depths) else 1.0 for depths in medians])[place]
    return log_normalize(counts, depth, sums)
