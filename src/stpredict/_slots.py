"""Prediction and truth as matrices over the same observations and genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict import _provenance
from stpredict._keys import Key
from stpredict._validate import check_genes, check_layer, check_obsm, check_unique

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def feature_matrix(adata: AnnData, key: str) -> np.ndarray | None:
    """Image features (n_obs, d) of a slot: `obsm[key]`, or `X` of a tile table that holds them; `None` otherwise."""
    if key in adata.obsm:
        values = adata.obsm[key]
        return values.to_numpy() if hasattr(values, "iloc") else values
    if is_tile_table(adata) and _provenance.read(adata, key) is not None:
        return adata.X
    return None


def is_tile_table(adata: AnnData) -> bool:
    """Whether this is the table of a slide's tiles, with their features in `X`."""
    return Key.TILE_ID in adata.obs


def prediction_frame(adata: AnnData, key: str, genes: Sequence[str] | None = None) -> pd.DataFrame:
    """Return `obsm[key]` as a DataFrame with unique gene names, or some of its genes; an error otherwise."""
    import pandas as pd

    check_obsm(adata, key, "run stp.tl.predict(adata, model) first, or name the slot with `key=`")
    frame = adata.obsm[key]
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"expected obsm[{key!r}] to be a DataFrame, observations × genes; found {type(frame).__name__}; "
            "wrap it: pd.DataFrame(values, index=adata.obs_names, columns=genes)"
        )
    check_unique(frame.columns, f"genes in obsm[{key!r}]")
    if genes is None:
        return frame
    check_unique(genes, "genes")
    missing = [gene for gene in genes if gene not in frame.columns]
    if missing or len(genes) == 0:
        found = f"{len(missing)} missing (first: {missing[0]})" if missing else "an empty list"
        raise KeyError(f"expected genes of the panel in obsm[{key!r}]; found {found}; take genes among its columns")
    return frame[list(genes)]


def measured_matrix(adata: AnnData, genes: Sequence[str], rows: Any = None, layer: str | None = None) -> Any:
    """Measured values (n, n_genes) of genes that must all be measured, from `X` or a layer; sparse stays sparse."""
    if not adata.var_names.is_unique:
        check_unique(adata.var_names, "var_names")
    check_genes(adata, genes)
    if layer is not None:
        check_layer(adata, layer, "name the layer that holds the target")
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise ValueError("expected measured expression in X; found none; put it there, or name a layer with `layer=`")
    if rows is not None:
        matrix = matrix[rows]
    return matrix[:, adata.var_names.get_indexer(list(genes))]


def to_dense(matrix: Any) -> np.ndarray:
    """Matrix as an array, float where it is not yet."""
    values = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def in_tissue(adata: AnnData) -> np.ndarray:
    """Observations on tissue (n_obs,): all of them where no column says otherwise."""
    if Key.IN_TISSUE not in adata.obs:
        return np.ones(adata.n_obs, dtype=bool)
    return adata.obs[Key.IN_TISSUE].to_numpy().astype(bool)
