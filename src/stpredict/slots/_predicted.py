"""A prediction as an object of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._expression import measured_matrix, to_dense
from stpredict.slots._keys import Key
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._scale import RATE, converted, measured_in, unit_named, unit_of_prediction
from stpredict.slots._sections import kept_sections

if TYPE_CHECKING:
    from anndata import AnnData


def predicted_table(
    adata: AnnData, key: str, *, layer: str | None = None, sample_key: str = Key.SAMPLE, scale: str | None = None
) -> AnnData:
    """AnnData (n_obs, n_genes) of a prediction, see :func:`stpredict.get.predicted`."""
    import pandas as pd
    from anndata import AnnData

    frame = prediction_frame(adata, key)
    genes = pd.Index(frame.columns.astype(str))
    is_measured = genes.isin(adata.var_names)
    layers = {}
    unit = unit_of_prediction(adata, key)
    values = frame.to_numpy(copy=True)
    if scale is not None:
        values = converted(adata, key, values, list(genes), scale, sample_key)
        unit = unit_named(adata, scale)
    rates = unit.get("method") == RATE or scale is not None
    is_there = Key.COUNTS in adata.layers if rates and layer is None else adata.X is not None or layer is not None
    if is_measured.any() and is_there:
        chosen = list(genes[is_measured])
        if rates and layer is None:
            measured_values = measured_in(adata, chosen, unit, sample_key=sample_key)
        else:
            measured_values = to_dense(measured_matrix(adata, chosen, layer=layer))
        layers["measured"] = np.full(frame.shape, np.nan, dtype=measured_values.dtype)
        layers["measured"][:, is_measured] = measured_values
    beside = (("std", Key.std(key)), ("lower", Key.lower(key)), ("upper", Key.upper(key)))
    for name, slot in beside if scale is None else ():
        if slot in adata.obsm and (extra := prediction_frame(adata, slot)).columns.equals(frame.columns):
            layers[name] = extra.to_numpy(copy=True)
    uns = {name: adata.uns[name] for name in (Key.SPATIAL, Key.UNS) if name in adata.uns}
    # Tools that draw take every entry for a section that is there; where none is of these, they have other names.
    if sample_key in adata.obs and (there := kept_sections(uns, adata.obs[sample_key].astype(str).unique())):
        uns[Key.SPATIAL] = there
    return AnnData(
        X=values,
        obs=adata.obs.copy(),
        var=pd.DataFrame({"measured": is_measured}, index=genes),
        layers=layers,
        obsm={Key.SPATIAL: adata.obsm[Key.SPATIAL].copy()} if Key.SPATIAL in adata.obsm else None,
        uns=uns,
    )
