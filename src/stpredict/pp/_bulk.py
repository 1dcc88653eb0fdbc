"""Bulk expression joined to slides by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_unique, few
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_ABOUT_GENES = ("normalize", "filter_genes")


@dataclass
class Bulk:
    """Expression of slides or patients.

    Attributes
    ----------
    names
        Names of slides or patients (m,).
    values
        Values (m, n_genes), float32.
    var, obs
        Columns of the genes; columns of the slides or patients.
    layers
        Further matrices (m, n_genes).
    records
        Provenance of the values and of columns of `var`.
    """

    names: pd.Index
    values: np.ndarray
    var: pd.DataFrame
    obs: pd.DataFrame
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)


def as_bulk(expression: Any) -> Bulk:
    """Check a table of bulk expression, a DataFrame or an AnnData."""
    import pandas as pd
    from anndata import AnnData

    if isinstance(expression, pd.DataFrame):
        text = [str(name) for name, dtype in expression.dtypes.items() if dtype.kind not in "iufb"]
        if text:
            raise ValueError(
                f"expected numbers in every column of expression; found other values in {few(text)}; set the names of "
                "slides or patients as the index, and pass an AnnData to bring further columns along"
            )
        values, var, obs = expression.to_numpy(np.float32), pd.DataFrame(index=expression.columns), pd.DataFrame()
        obs.index, layers, records = expression.index, {}, {}
    elif isinstance(expression, AnnData):
        if expression.X is None:
            raise ValueError("expected bulk expression in X; found none")
        values, var, obs = _dense(expression.X), expression.var.copy(), expression.obs
        layers = {name: _dense(layer) for name, layer in expression.layers.items()}
        known = expression.uns.get(Key.UNS, {})
        records = {name: known[name] for name in known if name in _ABOUT_GENES or name in var}
    else:
        raise TypeError(f"expected expression as a DataFrame or an AnnData; found {type(expression).__name__}")
    names = pd.Index(obs.index.astype(str))
    check_unique(names, "rows of expression (slides or patients)")
    var.index = var.index.astype(str)
    check_unique(var.index, "genes in expression")
    return Bulk(names, values, var, obs.set_axis(range(len(obs))), layers, records)


def check_join(bulk: Bulk, units: list[str], by: str, join: str) -> None:
    """Raise unless the table has the rows that the join needs; `units` are the slides or patients at hand."""
    extra, missing = bulk.names.difference(units), [unit for unit in dict.fromkeys(units) if unit not in bulk.names]
    other = f"join on the other name with by={'patient' if by == 'slide' else 'slide'!r}"
    if len(missing) == len(set(units)):
        raise ValueError(
            f"expected the rows of expression to be named after the {by}s ({few(units, 3)}); found none in common: "
            f"{few(bulk.names, 3) or 'no rows'}; set the names as its index, or {other}"
        )
    if join == "left" or not (len(extra) or missing):
        return
    found = [f"unknown {by}s {few(extra)}"] if len(extra) else []
    found += [f"no row for {few(missing)}"] if missing else []
    shared = f"expression.loc[[{', '.join(map(repr, [u for u in dict.fromkeys(units) if u in bulk.names][:2]))}, …]]"
    hint = f"take the rows at hand, {shared}, or " if len(extra) else ""
    raise ValueError(
        f"expected one row of expression for each {by}, and no other; found {' and '.join(found)}; {hint}pass join='left' "
        "to ignore further rows and leave slides without one unmeasured"
    )


def join_bulk(bulk: Bulk | None, units: list[str], slides: list[str]) -> AnnData:
    """Slides × genes, NaN where a slide has no row, with the columns of the table and `obs["measured"]`."""
    import pandas as pd
    from anndata import AnnData

    if bulk is None:
        obs = pd.DataFrame({Key.MEASURED: False}, index=pd.Index(slides))
        return AnnData(np.zeros((len(slides), 0), dtype=np.float32), obs=obs)
    at = bulk.names.get_indexer(pd.Index(units))
    obs = bulk.obs.reindex(at).set_axis(pd.Index(slides))
    for name, column in obs.items():
        if column.dtype == object and bulk.obs[name].dtype == bool:  # gaps made objects of it, which no file stores
            obs[name] = column.astype(float)
    values = _rows(bulk.values, at)
    measured = (at >= 0) & ~np.isnan(values).all(axis=1)
    if Key.MEASURED in bulk.obs and bulk.obs[Key.MEASURED].dtype == bool:
        measured &= bulk.obs[Key.MEASURED].to_numpy()[at]
    obs[Key.MEASURED] = measured
    layers = {name: _rows(layer, at) for name, layer in bulk.layers.items()}
    adata = AnnData(values, obs=obs, var=bulk.var, layers=layers)
    if bulk.records:
        adata.uns[Key.UNS] = dict(bulk.records)
    return adata


def check_shared(values: np.ndarray, measured: np.ndarray, patient: np.ndarray, slides: list[str]) -> None:
    """Raise when slides of one patient have different expression (n_slides, n_genes)."""
    for name in np.unique(patient[measured]).tolist():
        rows = np.flatnonzero(measured & (patient == name))
        same = np.isclose(values[rows[1:]], values[rows[0]], rtol=1e-5, atol=0, equal_nan=True).all(axis=1)
        if not same.all():
            several = few(np.array(slides)[rows])
            raise ValueError(
                f"expected slides of one patient to have the same bulk expression; found different values for patient "
                f"{name!r} (slides {several}); correct the table, join one row per patient with by='patient', or pass "
                "shared=False if each slide was sequenced by itself"
            )


def _rows(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    taken = np.full((len(at), values.shape[1]), np.nan, dtype=np.float32)
    taken[at >= 0] = values[at[at >= 0]]
    return taken


def _dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float32)
