"""Expression of patients: measured or predicted, with the slides of each averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from stpredict.core._validate import check_unique
from stpredict.slots._expression import matrix_of, measured_rows, to_dense
from stpredict.slots._prediction import prediction_frame, prediction_names
from stpredict.slots._truth import check_of_genes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Use = Literal["predicted", "measured"]


def names_at_hand(adata: AnnData, use: Use, key: str) -> list[str]:
    """Names of the genes that were measured, or predicted; for messages."""
    names = prediction_names(adata, key) if use == "predicted" else adata.var_names
    return [] if names is None else [str(name) for name in names]


def expression_frame(
    adata: AnnData, use: Use, key: str, layer: str | None, genes: Sequence[str] | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Expression (n_obs, n_genes) float64 of genes that are there, and the mask (n_obs,) of observations that have it.

    Genes that are asked for and not there are left out; all of them when `None`.
    """
    import pandas as pd

    if use == "predicted":
        check_of_genes(adata, key)
        frame = prediction_frame(adata, key)
        if genes is not None:
            frame = frame[[gene for gene in genes if gene in frame.columns]]
        frame = frame.astype(np.float64)
        return frame, ~frame.isna().all(axis=1).to_numpy() if frame.shape[1] else np.ones(len(frame), dtype=bool)
    check_unique(adata.var_names, "var_names")
    matrix = matrix_of(adata, layer)
    names = adata.var_names.astype(str)
    at = np.arange(adata.n_vars) if genes is None else names.get_indexer(pd.Index(genes))
    at = at[at >= 0]
    values = to_dense(matrix[:, at]).astype(np.float64)
    return pd.DataFrame(values, adata.obs_names, names[at]), measured_rows(adata, matrix)
