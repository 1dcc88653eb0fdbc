"""Predictions: one array per slot, whose columns are named in the record of the slot."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_unique
from stpredict.slots._checks import check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._matrix import dense_matrix
from stpredict.slots._provenance import drop_records, read_record, write_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Names = Literal["genes", "classes", "values"]
NAMES: tuple[Names, ...] = ("genes", "classes", "values")
#: In the record of a prediction of values: where the values stand that were measured, as `"obs"` or a slot of `obsm`.
SOURCE = "values_in"
_ABOUT = ("target", SOURCE, "units", "link")  # said of what lies beside a prediction as well
_PANEL_KEY = "panel_key"


def prediction_frame(adata: AnnData, key: str, genes: Sequence[str] | None = None) -> pd.DataFrame:
    """Return `obsm[key]` as a DataFrame with unique names of its columns, or some of them; an error otherwise.

    The values are those of the slot, and not a copy. A DataFrame that somebody put there is taken as it is.
    """
    import pandas as pd

    check_obsm(adata, key, "run stp.tl.predict(adata, model) first, or name the slot with `key=`")
    names = prediction_names(adata, key)
    if names is None:
        raise ValueError(
            _lost(key, f"{type(adata.obsm[key]).__name__} without them, as after copying it from another key")
        )
    frame = adata.obsm[key]
    if not isinstance(frame, pd.DataFrame):
        frame = pd.DataFrame(dense_matrix(frame, f"obsm[{key!r}]"), index=adata.obs_names, columns=names, copy=False)
    check_unique(frame.columns, f"genes in obsm[{key!r}]")
    if genes is None:
        return frame
    check_unique(genes, "genes")
    missing = [gene for gene in genes if gene not in frame.columns]
    if missing or len(genes) == 0:
        found = f"{len(missing)} missing (first: {missing[0]})" if missing else "an empty list"
        raise KeyError(f"expected genes of the panel in obsm[{key!r}]; found {found}; take genes among its columns")
    return frame[list(genes)]


def of_all_folds(frame: pd.DataFrame, key: str, stacklevel: int = 4) -> pd.DataFrame:
    """The genes that were predicted in every row with a prediction: folds may have chosen others."""
    missing = frame.isna().to_numpy()
    there = np.asarray(~missing[~missing.all(axis=1)].any(axis=0))
    if there.all() or not there.any():
        return frame
    warnings.warn(
        f"{int((~there).sum())} of {len(there)} genes in obsm[{key!r}] were not predicted in all observations, as when folds "
        f"choose genes of their own; the other {int(there.sum())} are used",
        stacklevel=stacklevel,
    )
    return frame[frame.columns[there]]


def prediction_names(adata: AnnData, key: str) -> pd.Index | None:
    """Names of the columns of `obsm[key]`; `None` where it holds no prediction, such as features.

    The record of the slot names them, and a column of `obs` says for every row that they are those of this row: joining
    objects keeps the record of one of them, and cuts arrays of several widths to the same. `ValueError` where names and
    rows do not belong together.
    """
    import pandas as pd

    values = adata.obsm[key]
    if isinstance(values, pd.DataFrame):
        return values.columns
    record = read_record(adata, key) or {}
    names = next((record[what] for what in NAMES if what in record), None)
    if names is None:
        if Key.panel(key) in adata.obs:
            raise ValueError(_lost(key, "an array that has lost its record"))
        return None
    index = pd.Index([str(name) for name in np.atleast_1d(names)], dtype=object)
    if values.ndim != 2 or values.shape[1] != len(index):
        raise ValueError(_lost(key, f"{len(index)} names for an array of shape {values.shape}"))
    column = str(record.get(_PANEL_KEY, Key.panel(key)))
    if column not in adata.obs:
        raise ValueError(_lost(key, f"no obs[{column!r}], which says of every row that it has these genes"))
    others = ~_of_panel(adata, column, list(index))
    if others.any():
        there = ~np.isnan(dense_matrix(values[others], f"obsm[{key!r}]")).all(axis=1)
        # A row without a prediction, of an object that had none, belongs to no panel.
        if (there | adata.obs[column].notna().to_numpy()[others]).any():
            raise ValueError(_lost(key, f"{int(others.sum())} of {adata.n_obs} rows that were predicted with others"))
    return index


def what_columns(adata: AnnData, key: str) -> Names:
    """What the columns of a prediction are; genes where nobody said."""
    record = read_record(adata, key) or {}
    return next((what for what in NAMES if what in record), "genes")


def main_predictions(adata: AnnData) -> list[str]:
    """Slots of `obsm` with predictions of genes or values, without comparators and what lies beside one (deviations, bounds)."""
    found = [
        key for key in adata.obsm if {"genes", "values"} & set(read_record(adata, key) or {}) or _is_named(adata, key)
    ]
    beside = {
        slot
        for key in found
        for slot in found
        if slot in {Key.std(key), Key.lower(key), Key.upper(key)} or slot.startswith(Key.baseline(key, ""))
    }
    return [key for key in found if key not in beside and not (read_record(adata, key) or {}).get("comparator")]


def _is_named(adata: AnnData, key: str) -> bool:
    """Whether somebody put a DataFrame where predictions are, under their name or with their record."""
    named = key == Key.PREDICTED or read_record(adata, key) is not None
    return named and hasattr(adata.obsm[key], "columns")


def write_predictions(
    adata: AnnData,
    key: str,
    frames: Mapping[str, pd.DataFrame],
    record: Mapping[str, Any],
    *,
    names: Names = "genes",
    elsewhere: bool = False,
) -> None:
    """Put a prediction in place of an earlier one: its tables by slot, `key` among them or not, and its record.

    Where the values went `elsewhere`, into a store, an earlier prediction by the same models stays.
    """
    earlier = read_record(adata, key) or {}
    if elsewhere and all(earlier.get(name) == value for name, value in record.items() if name != "store"):
        write_record(adata, key, earlier | {"store": record.get("store")})
        return
    clear_predictions(adata, key)
    for slot, frame in sorted(frames.items(), key=lambda item: item[0] != key):
        own = slot == key
        write_prediction(adata, slot, frame, record if own else about(record), beside=None if own else key, names=names)
    if key not in frames:
        write_record(adata, key, record)


def about(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of the target: the same of a prediction and of what lies beside it."""
    return {name: record[name] for name in _ABOUT if record.get(name) is not None}


def write_prediction(
    adata: AnnData,
    slot: str,
    frame: pd.DataFrame,
    record: Mapping[str, Any] | None = None,
    *,
    beside: str | None = None,
    names: Names = "genes",
) -> None:
    """Write a table (n_obs, k) as `obsm[slot]` (float32), the names of its columns into the record, and the tie of both.

    Parameters
    ----------
    adata
        Object that is changed.
    slot
        Where to.
    frame
        Values, with the names of genes, values or classes as columns; its memory may be used.
    record
        What else is recorded of it.
    beside
        Prediction that it belongs to: with the same genes, one column of `obs` serves both.
    names
        What the columns are.
    """
    import pandas as pd

    index = [str(name) for name in frame.columns]
    column = Key.panel(beside or slot)
    if column in adata.obs and not _of_panel(adata, column, index).all():
        column = Key.panel(slot)
    adata.obsm[slot] = np.ascontiguousarray(frame.to_numpy(dtype=np.float32))
    adata.obs[column] = pd.Categorical(np.full(adata.n_obs, _digest(index), dtype=object))
    write_record(adata, slot, {**(record or {}), names: index, _PANEL_KEY: column})


def clear_predictions(adata: AnnData, key: str) -> None:
    """Remove what an earlier prediction left under a key: its slots, their records, and columns of `obs`.

    Its bounds and its baselines go with it: they are of the prediction that they lie beside.
    """
    beside = {key, Key.std(key), Key.lower(key), Key.upper(key), Key.samples(key), Key.quantiles(key)}
    slots = [name for name in adata.obsm if name in beside or name.startswith(Key.baseline(key, ""))]
    columns = {
        name(key)
        for name in (Key.leaky, Key.fold, Key.group, Key.n_windows, Key.partial, Key.predicted_class, Key.panel)
    } | {key, *map(Key.panel, slots)}  # fmt: skip
    present = [name for name in adata.obs.columns if name in columns]
    if present:
        adata.obs = adata.obs.drop(columns=present)
    for name in slots:
        del adata.obsm[name]
    drop_records(adata, [*slots, Key.conformal(key)])


def _of_panel(adata: AnnData, column: str, names: Sequence[str]) -> np.ndarray:
    """Mask (n_obs,) of the rows that a column of `obs` ties to these names in this order."""
    return (adata.obs[column] == _digest(names)).to_numpy(dtype=bool, na_value=False)


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]


def _lost(key: str, found: str) -> str:
    return (
        f"expected the genes of obsm[{key!r}], one per column and the same in all rows; found {found}; join objects with "
        f"stp.concat, predict again, or name them: adata.obsm[{key!r}] = pd.DataFrame(values, adata.obs_names, genes)"
    )
