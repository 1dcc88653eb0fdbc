"""Results of the package as objects of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._container import get_table
from stpredict._keys import Key
from stpredict._slots import measured_matrix, prediction_frame, to_dense

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict._container import Container

__all__ = ["predicted"]


def predicted(
    data: Container, key: str = Key.PREDICTED, *, layer: str | None = None, table_key: str = Key.TABLE
) -> AnnData:
    """Return a prediction as an AnnData whose variables are the genes of the panel.

    Parameters
    ----------
    data
        AnnData or SpatialData with a prediction.
    key
        Slot of the prediction in `obsm`, a DataFrame (observations × panel genes).
    layer
        Layer with the measured values; `X` by default.
    table_key
        Table of a SpatialData.

    Returns
    -------
    A new AnnData (n_obs, n_genes) with

    - `X`: the prediction, in the unit of the training target,
    - `layers["measured"]`: the measured values (`X` of `data`, or `layer`), NaN for genes that were not measured; left out when
      none was,
    - `layers["std"]`, `layers["lower"]`, `layers["upper"]`: from `obsm["{key}_std"]` and so on, where these exist,
    - `var["measured"]`: whether the gene is among the variables of `data`,
    - `obs`, `obsm["spatial"]`, `uns["spatial"]` and the provenance in `uns["stpredict"]`, as in `data`.

    Raises
    ------
    KeyError
        When there is no such prediction, layer or table.
    TypeError
        When the slot is not a DataFrame, and its genes are therefore unknown.
    ValueError
        When a gene name occurs twice.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> adata = ad.AnnData(np.ones((2, 2), np.float32), var=pd.DataFrame(index=["A", "B"]))
    >>> adata.obsm["predicted"] = pd.DataFrame({"B": [0.5, 1.5]}, index=adata.obs_names)
    >>> stp.get.predicted(adata).layers["measured"].tolist()
    [[1.0], [1.0]]
    """
    import pandas as pd
    from anndata import AnnData

    table = get_table(data, table_key)
    frame = prediction_frame(table, key)
    genes = pd.Index(frame.columns.astype(str))
    known = genes.isin(table.var_names)
    layers = {}
    if known.any() and (table.X is not None or layer is not None):
        found = to_dense(measured_matrix(table, list(genes[known]), layer=layer))
        layers["measured"] = np.full(frame.shape, np.nan, dtype=found.dtype)
        layers["measured"][:, known] = found
    for name in ("std", "lower", "upper"):
        other = table.obsm.get(f"{key}_{name}")
        if isinstance(other, pd.DataFrame) and list(other.columns) == list(frame.columns):
            layers[name] = other.to_numpy(copy=True)
    return AnnData(
        X=frame.to_numpy(copy=True),
        obs=table.obs.copy(),
        var=pd.DataFrame({"measured": known}, index=genes),
        layers=layers,
        obsm={Key.SPATIAL: table.obsm[Key.SPATIAL].copy()} if Key.SPATIAL in table.obsm else None,
        uns={name: table.uns[name] for name in (Key.SPATIAL, Key.UNS) if name in table.uns},
    )
