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
    residuals = normalization.get("method") == "pearson_residuals"
    if not (residuals or normalization.get("target_sum") == "median") or Key.COUNTS not in adata.layers:
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
    part = counts[at][:, genes]
    if residuals:
        settings = {name: normalization.get(name) for name in ("theta", "clip")}
        found: Any = section_residuals(part, depth[at], section[at], counted[at], **settings)  # type: ignore[arg-type]
    else:
        codes, place = np.unique(section[at], return_inverse=True)
        medians = [depth[at][(section[at] == code) & counted[at]] for code in codes]
        sums = np.array([np.median(depths) if len(depths) else 1.0 for depths in medians])[place]
        found = log_normalize(part, depth[at], sums)
        found = found.toarray() if hasattr(found, "toarray") else found
    values = values.copy()
    values[again] = found
    return values
