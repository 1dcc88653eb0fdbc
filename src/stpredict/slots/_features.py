"""Where image features are: a slot of `obsm`, or `X` of the table of a slide's tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._matrix import dense_matrix, numeric_matrix
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData


def feature_matrix(adata: AnnData, key: str) -> np.ndarray | None:
    """Image features (n_obs, d) of a slot: `obsm[key]`, or `X` of a tile table that holds them; `None` otherwise."""
    if key in adata.obsm:
        values = adata.obsm[key]
        if hasattr(values, "iloc") or hasattr(values, "toarray"):
            return dense_matrix(values, f"obsm[{key!r}]")
        return numeric_matrix(values, f"obsm[{key!r}]")
    if is_tile_table(adata) and read_record(adata, key) is not None:
        return numeric_matrix(adata.X, "X")
    return None


def is_tile_table(adata: AnnData) -> bool:
    """Whether this is the table of a slide's tiles, with their features in `X`."""
    return Key.TILE_ID in adata.obs
