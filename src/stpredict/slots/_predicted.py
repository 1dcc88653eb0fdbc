"""A prediction as an object of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.slots._keys import Key
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record
from stpredict.slots._sections import kept_sections
from stpredict.slots._truth import measured_values_of

if TYPE_CHECKING:
    from anndata import AnnData


def predicted_table(adata: AnnData, key: str, *, layer: str | None = None, sample_key: str = Key.SAMPLE) -> AnnData:
    """AnnData (n_obs, n_genes) of a prediction, see :func:`stpredict.get.predicted`."""
    import pandas as pd
    from anndata import AnnData

    frame = prediction_frame(adata, key)
    genes = pd.Index(frame.columns.astype(str))
    layers, measured_values = {}, measured_values_of(adata, key, list(genes), layer)
    is_measured = genes.isin(measured_values.columns)
    if is_measured.any():
        layers["measured"] = measured_values.reindex(columns=genes).to_numpy(copy=True)
    var = pd.DataFrame({"measured": is_measured}, index=genes)
    units = (read_record(adata, key) or {}).get("units")
    if units is not None:
        var["unit"] = units
    for name, slot in (("std", Key.std(key)), ("lower", Key.lower(key)), ("upper", Key.upper(key))):
        if slot in adata.obsm and (extra := prediction_frame(adata, slot)).columns.equals(frame.columns):
            layers[name] = extra.to_numpy(copy=True)
    uns = {name: adata.uns[name] for name in (Key.SPATIAL, Key.UNS) if name in adata.uns}
    # Tools that draw take every entry for a section that is there; where none is of these, they have other names.
    if sample_key in adata.obs and (there := kept_sections(uns, adata.obs[sample_key].astype(str).unique())):
        uns[Key.SPATIAL] = there
    return AnnData(
        X=frame.to_numpy(copy=True),
        obs=adata.obs.copy(),
        var=var,
        layers=layers,
        obsm={Key.SPATIAL: adata.obsm[Key.SPATIAL].copy()} if Key.SPATIAL in adata.obsm else None,
        uns=uns,
    )
