"""Where observations lie: the only place that turns a slot of positions into numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._matrix import check_float32, dense_matrix

if TYPE_CHECKING:
    from anndata import AnnData


def positions_of(adata: AnnData, key: str = Key.SPATIAL) -> np.ndarray:
    """Positions (n_obs, 2) float64 in the unit of the slot, which must be there; what lies beyond two columns is left out.

    Raises
    ------
    TypeError
        For text, dates and complex numbers.
    ValueError
        When there are not two columns, or a number is too large for single precision.
    """
    values = dense_matrix(adata.obsm[key], f"obsm[{key!r}]")
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"expected x and y in obsm[{key!r}]; found an array of shape {values.shape}")
    check_float32(values, f"positions in obsm[{key!r}]")
    return values[:, :2].astype(np.float64)
