"""A prediction as an object of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._prediction import SOURCE, prediction_frame
from stpredict.slots._provenance import read_record
from stpredict.slots._scale import (
    LINEAR,
    RATE,
    converted,
    linear_values,
    measured_in,
    unit_in,
    unit_named,
    unit_of_prediction,
)
from stpredict.slots._sections import kept_sections
from stpredict.slots._truth import check_of_genes, measured_values_of

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
    values, own = frame.to_numpy(copy=True), read_record(adata, key) or {}
    unit = {} if SOURCE in own else unit_of_prediction(adata, key)
    if scale is not None:
        check_of_genes(adata, key)
        values = converted(adata, key, values, list(genes), scale, sample_key)
        unit = unit_named(adata, scale)
    # Rates, and what is asked for on another scale, are compared with the counts.
    from_counts = (unit.get("method") == RATE or scale is not None) and layer is None and scale != LINEAR
    if from_counts:
        counted = [gene for gene in genes if gene in adata.var_names] if Key.COUNTS in adata.layers else []
        matrix = measured_in(adata, counted, unit, sample_key=sample_key) if counted else np.zeros((adata.n_obs, 0))
        measured_values = pd.DataFrame(matrix, adata.obs_names, counted)
    else:
        measured_values = measured_values_of(adata, key, list(genes), layer)
        if scale == LINEAR and layer is None and len(measured_values.columns):
            linear = linear_values(measured_values.to_numpy(np.float64), unit_in(read_record(adata, "normalize")))
            measured_values = pd.DataFrame(linear, measured_values.index, measured_values.columns)
    is_measured = genes.isin(measured_values.columns)
    layers = {}
    if is_measured.any():
        layers["measured"] = measured_values.reindex(columns=genes).to_numpy(copy=True)
    var = pd.DataFrame({"measured": is_measured}, index=genes)
    if own.get("units") is not None:
        var["unit"] = own["units"]
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
        var=var,
        layers=layers,
        obsm={Key.SPATIAL: adata.obsm[Key.SPATIAL].copy()} if Key.SPATIAL in adata.obsm else None,
        uns=uns,
    )
