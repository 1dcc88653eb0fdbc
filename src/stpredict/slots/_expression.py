"""Measured expression: which matrix holds it, which observations have it, and how it was normalized."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import by_blocks
from stpredict.core._validate import check_unique
from stpredict.slots._booleans import read_bool
from stpredict.slots._checks import check_genes, check_layer
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix
from stpredict.slots._provenance import check_normalized, read_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: What a record of a normalization says of the sections at hand, and not of the unit.
_OF_SECTIONS = frozenset({"n_empty", "section_sums", "sample_key", "stpredict_version"})
_LOOKED_AT = 32  # rows in which X is compared with its record
_UNTOUCHED = 0.02  # relative difference that single and half precision leave


def measured_matrix(adata: AnnData, genes: Sequence[str], rows: Any = None, layer: str | None = None) -> Any:
    """Measured values (n, n_genes) of genes that must all be measured, from `X` or a layer; sparse stays sparse."""
    check_unique(adata.var_names, "var_names")
    check_genes(adata, genes)
    return taken(matrix_of(adata, layer), rows, adata.var_names.get_indexer(list(genes)))


def taken(matrix: Any, rows: Any, columns: np.ndarray) -> Any:
    """A copy of some rows of a matrix (`None` for all) and some columns: the fewer of the two are taken first."""
    from scipy import sparse

    n_obs, n_vars = matrix.shape
    every_column = len(columns) == n_vars and (columns == np.arange(n_vars)).all()
    # What is in a file, or is no array, gives rows.
    in_memory = isinstance(matrix, np.ndarray) or sparse.issparse(matrix)
    if not isinstance(rows, np.ndarray) or not in_memory:
        return (matrix if rows is None else matrix[rows])[:, columns]
    if every_column:
        return matrix[rows]
    n_rows = int(rows.sum()) if rows.dtype == bool else len(rows)
    if n_rows * n_vars < len(columns) * n_obs:
        return matrix[rows][:, columns]
    found = matrix[:, columns]
    numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
    return found if len(numbers) == n_obs and (numbers == np.arange(n_obs)).all() else found[rows]


def to_dense(matrix: Any) -> np.ndarray:
    """Matrix as an array, float where it is not yet."""
    values = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def marked_measured(adata: AnnData) -> np.ndarray:
    """Mask (n_obs,) of observations that `obs["measured"]` does not mark as unmeasured; all without such a column."""
    return _unless_said(adata, Key.MEASURED)


def in_tissue(adata: AnnData) -> np.ndarray:
    """Observations on tissue (n_obs,): all of them where no column says otherwise."""
    return _unless_said(adata, Key.IN_TISSUE)


def _unless_said(adata: AnnData, key: str) -> np.ndarray:
    """Mask (n_obs,) that is true unless a column says otherwise: where it has gaps, as after a join, it says nothing."""
    if key not in adata.obs:
        return np.ones(adata.n_obs, dtype=bool)
    return read_bool(adata.obs[key], f"obs[{key!r}]", gaps=True)


def measured_rows(adata: AnnData, values: Any) -> np.ndarray:
    """Mask (n_obs,) of observations with a measurement: not marked as unmeasured, and not NaN throughout."""
    from scipy import sparse

    marked = marked_measured(adata)
    if sparse.issparse(values) or values.dtype.kind != "f":
        return marked
    return marked & ~by_blocks(lambda block: np.isnan(block).all(axis=1), values)


def matrix_of(adata: AnnData, layer: str | None) -> Any:
    """`X`, or the layer named."""
    if layer is not None:
        check_layer(adata, layer, "pass a layer with normalized values, or none to use X")
        return numeric_matrix(adata.layers[layer], f"layers[{layer!r}]")
    if adata.X is None:
        raise ValueError("expected normalized values in X; found none; run stp.pp.normalize, or pass `layer=`")
    return numeric_matrix(adata.X, "X")


def usable_rows(adata: AnnData, rows: np.ndarray, layer: str | None) -> np.ndarray:
    """Of a mask (n_obs,), the observations with a measurement."""
    usable = rows & measured_rows(adata, matrix_of(adata, layer))
    if not usable.any():
        raise ValueError("expected at least one measured observation; found none among those chosen by `train`")
    return usable


def read_normalization(adata: AnnData, layer: str | None) -> dict[str, Any]:
    """How the target was normalized; an error when nobody wrote it down."""
    if layer is not None:
        check_layer(adata, layer, "name the layer that holds the target")
        return {"method": "layer", "layer": layer}
    record = read_record(adata, "normalize")
    if record is not None:
        check_normalized(record)
        _check_untouched(adata, record)
        return {k: v for k, v in record.items() if k not in _OF_SECTIONS}
    if "log1p" in adata.uns:
        return {"method": "scanpy"}
    raise KeyError(
        "expected a normalized target in X; found no record of it; run stp.pp.normalize(adata) first, or, for expression that "
        "is normalized already, put it in a layer and name it: stp.tl.fit(adata, target=stp.targets.Expression(layer='mine')), "
        "and `layer='mine'` in scores and figures; scores, fractions and proteins go into obs or obsm: "
        "target=stp.targets.Values(…)"
    )


def _check_untouched(adata: AnnData, record: Mapping[str, Any]) -> None:
    """Warn where X is no longer what :func:`stpredict.pp.normalize` made of the input that it kept.

    Looked at in some rows. Within a row, log1p values are those of counts times one factor, whatever genes were left
    out since; residuals of counts of 0 say which proportion the gene had, and must not contradict each other.
    """
    bulk = str(record.get("unit")).replace("-", "_")
    kept = {"log1p": Key.COUNTS, "pearson_residuals": Key.COUNTS, "log2p1": bulk}.get(str(record.get("method")))
    if kept is None or kept not in adata.layers or adata.X is None or not adata.n_vars or not adata.n_obs:
        return
    rows = np.unique(np.linspace(0, adata.n_obs - 1, _LOOKED_AT).astype(int))
    source = to_dense(numeric_matrix(adata.layers[kept][rows], f"layers[{kept!r}]")).astype(np.float64)
    found = to_dense(numeric_matrix(adata.X[rows], "X")).astype(np.float64)
    if record["method"] == "pearson_residuals":
        if Key.DEPTH in adata.obs and not _are_residuals(source, found, adata.obs.iloc[rows], record):
            _tell_changed(record, str(adata.obs_names[rows[0]]))
        return
    with np.errstate(over="ignore", invalid="ignore"):
        linear = np.expm1(found) if kept == Key.COUNTS else np.exp2(found) - 1
    for row, (before, after) in enumerate(zip(source, linear, strict=True)):
        known = np.isfinite(before) & np.isfinite(after)
        before, after = before[known], after[known]
        if not before.any():
            continue  # not measured, or empty
        factor = after.sum() / before.sum() if kept == Key.COUNTS else 1.0
        if np.allclose(after, factor * before, rtol=_UNTOUCHED, atol=_UNTOUCHED * factor * np.abs(before).max()):
            continue
        _tell_changed(record, str(adata.obs_names[rows[row]]))
        return


def _are_residuals(counts: np.ndarray, values: np.ndarray, obs: pd.DataFrame, record: Mapping[str, Any]) -> bool:
    """Whether values (n, G) may be Pearson residuals of counts: solved for the proportion of a gene, they agree on it."""
    depth, theta = obs[Key.DEPTH].to_numpy(dtype=np.float64), float(record["theta"])
    key = str(record.get("sample_key"))
    section = obs[key].astype(str).to_numpy() if key in obs else np.zeros(len(obs))
    unknown = np.isnan(values) & np.isfinite(counts)
    if (unknown.any(axis=1) & ~unknown.all(axis=1)).any():
        return False
    # (x - m)² = z² (m + m² / θ), of which one root lies on the side that the sign of z says.
    square, remainder = values**2, 1 - values**2 / theta
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(np.maximum((2 * counts + square) ** 2 - 4 * counts**2 * remainder, 0))
        share = (2 * counts + square - np.sign(values) * root) / (2 * remainder) / depth[:, None]
    for name in np.unique(section):
        rows = (section == name) & (depth > 0) & np.isfinite(values).all(axis=1)
        if rows.sum() < 2:
            continue
        # The largest may have been cut off.
        uncut = np.abs(values[rows]) < 0.999 * np.abs(values[rows]).max()
        found = np.where(uncut, share[rows], np.nan)[:, uncut.sum(axis=0) > 1]
        if found.size and np.mean(np.nanmax(found, 0) - np.nanmin(found, 0) > _UNTOUCHED * np.nanmax(found, 0)) > 0.1:
            return False
    return True


def _tell_changed(record: Mapping[str, Any], first: str) -> None:
    warnings.warn(
        f"X is not as stp.pp.normalize left it (uns['stpredict']['normalize']: {record['method']}), first in observation "
        f"{first!r}: it was changed since, by scanpy.pp.normalize_total for example, and the record of its unit is false; call "
        "stp.pp.normalize(adata) again, or put your values in a layer and name it: "
        "target=stp.targets.Expression(layer='mine')",
        stacklevel=6,
    )
