"""Predictions as tables with the names of their genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stpredict.core._validate import check_unique
from stpredict.slots._checks import check_obsm
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


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


def clear_predictions(adata: AnnData, key: str, *, keep_tables: bool = False) -> None:
    """Remove what an earlier prediction left under a key, of whatever kind it was: tables of `obsm` and columns of `obs`.

    With `keep_tables=True` only the columns: a map that goes to a store leaves `obsm` as it is.
    """
    columns = {
        name(key)
        for name in (Key.leaky, Key.fold, Key.group, Key.n_windows, Key.partial, Key.predicted_class)
    } | {key}  # fmt: skip
    present = [name for name in adata.obs.columns if name in columns]
    if present:
        adata.obs = adata.obs.drop(columns=present)
    if keep_tables:
        return
    for name in [k for k in adata.obsm if k in {key, Key.std(key)} or k.startswith(Key.baseline(key, ""))]:
        del adata.obsm[name]
