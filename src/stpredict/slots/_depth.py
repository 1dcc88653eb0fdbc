"""The depth of observations: how many counts were measured in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import by_blocks
from stpredict.metrics._pearson_residuals import pearson_residuals, proportions_of
from stpredict.slots._expression import in_tissue, measured_rows
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix
from stpredict.slots._provenance import read_record
from stpredict.slots._unit import unit_of

if TYPE_CHECKING:
    from anndata import AnnData


def depth_of(adata: AnnData) -> np.ndarray | None:
    """Counts (n_obs,) behind the size factor of each observation; `None` where there are no counts.

    `obs["depth"]`, which :func:`stpredict.pp.normalize` wrote and which stays true when genes are left out; without it the
    total of `layers["counts"]`.
    """
    if Key.DEPTH in adata.obs and read_record(adata, "normalize") is not None:
        import pandas as pd

        return pd.to_numeric(adata.obs[Key.DEPTH], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if Key.COUNTS not in adata.layers:
        return None
    counts = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")
    panel = (read_record(adata, "normalize") or {}).get("panel")
    return total_counts(counts if panel is None else counts[:, adata.var_names.get_indexer(panel)])


def total_counts(counts: Any) -> np.ndarray:
    """Total of each row (n,) in float64."""
    return by_blocks(lambda block: np.asarray(block.sum(axis=1, dtype=np.float64)).ravel(), counts)


def section_codes(adata: AnnData, sample_key: str = Key.SAMPLE) -> tuple[list[str], np.ndarray]:
    """Names of the sections and the number of each observation's (n_obs,); slides and genes are compared, and are one section."""
    if sample_key not in adata.obs or unit_of(adata) != "observation":
        return [""], np.zeros(adata.n_obs, dtype=np.int64)
    names, codes = np.unique(adata.obs[sample_key].astype(str).to_numpy(), return_inverse=True)
    return [str(name) for name in names], codes


def counted_rows(adata: AnnData, counts: Any, depth: np.ndarray) -> np.ndarray:
    """Mask (n_obs,) of what the statistics of a section are taken over: measured observations on tissue with counts."""
    return measured_rows(adata, counts) & in_tissue(adata) & (np.nan_to_num(depth) > 0)


def section_residuals(
    counts: Any,
    depth: np.ndarray,
    section: np.ndarray,
    counted: np.ndarray,
    *,
    theta: float,
    clip: float | None = None,
) -> np.ndarray:
    """Pearson residuals (n, G) float32 of counts, each section by itself.

    Proportions, and the number that the largest residual follows from, are those of the observations of a section that
    are counted (n,); the others get residuals from the same proportions. Sections without any have 0.
    """
    values = np.zeros(counts.shape, dtype=np.float32)
    rows = counts.tocsr() if hasattr(counts, "tocsr") else counts
    for code in np.unique(section):
        members = np.flatnonzero(section == code)
        inside = counted[members]
        if not inside.any():
            values[members[np.isnan(depth[members])]] = np.nan
            continue
        part = rows if len(members) == len(section) else rows[members]
        share = proportions_of(part if inside.all() else part[inside], depth[members][inside])
        limit = np.sqrt(inside.sum()) if clip is None else clip
        values[members] = pearson_residuals(part, depth[members], theta=theta, clip=limit, proportions=share)
    return values
