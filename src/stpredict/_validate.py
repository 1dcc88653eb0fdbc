"""Checks with uniform messages: what was expected, what was found, what to call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._keys import Key

if TYPE_CHECKING:
    from anndata import AnnData


def _few(names: Iterable[Any], limit: int = 5) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")


def check_obsm(adata: AnnData, key: str, call: str) -> None:
    """Raise `KeyError` unless `obsm[key]` exists; `call` says what writes it."""
    if key not in adata.obsm:
        raise KeyError(f"expected obsm[{key!r}]; found {sorted(adata.obsm)}; {call}")


def check_obs(adata: AnnData, key: str, call: str = "") -> None:
    """Raise `KeyError` unless `obs[key]` exists."""
    if key not in adata.obs:
        raise KeyError(f"expected obs[{key!r}]; found {list(adata.obs.columns)}" + (f"; {call}" if call else ""))


def check_layer(adata: AnnData, key: str, call: str) -> None:
    """Raise `KeyError` unless `layers[key]` exists; `call` says what writes it."""
    if key not in adata.layers:
        raise KeyError(f"expected layers[{key!r}]; found {sorted(adata.layers)}; {call}")


def check_positive(value: float, name: str) -> float:
    """Raise `ValueError` unless `value` is a positive finite number."""
    if not isinstance(value, int | float | np.number) or not 0 < float(value) < float("inf"):
        raise ValueError(f"expected {name} to be a positive number; found {value!r}")
    return float(value)


def check_choice(value: str, choices: Sequence[str], name: str) -> str:
    """Raise `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(map(repr, choices))}; found {value!r}")
    return value


def check_unique(names: Iterable[Any], what: str) -> None:
    """Raise `ValueError` when a name occurs twice."""
    import pandas as pd

    index = pd.Index(names)
    if not index.is_unique:
        repeated = index[index.duplicated()].unique()
        raise ValueError(f"expected unique {what}; found {_few(repeated)} more than once; make them unique first")


def check_genes(adata: AnnData, genes: Sequence[str]) -> None:
    """Raise when a gene of a panel is missing from `var_names`, or occurs twice in the panel."""
    if len(genes) == 0:
        raise ValueError("expected a panel with at least one gene; found an empty one; see stp.pp.select_genes")
    check_unique(genes, "genes in the panel")
    missing = [gene for gene in genes if gene not in adata.var_names]
    if missing:
        raise KeyError(
            f"expected every gene of the panel in var_names; missing {_few(missing)}; "
            "take a panel of genes that were measured, or select one with stp.pp.select_genes"
        )


def check_finite(values: np.ndarray, what: str, call: str) -> None:
    """Raise `ValueError` when an array (n, d) holds NaN or infinity; name how many rows and the first."""
    bad = ~np.isfinite(values)
    if bad.any():
        rows = np.flatnonzero(bad.reshape(len(values), -1).any(axis=1))
        raise ValueError(
            f"expected finite {what}; found NaN or infinity in {len(rows)} rows (first: {rows[0]}); {call}"
        )


def check_counts(counts: Any, what: str = "counts") -> None:
    """Raise `ValueError` unless the matrix (dense or sparse) holds non-negative whole numbers."""
    from scipy import sparse

    values = counts.data if sparse.issparse(counts) else np.asarray(counts)
    if values.size == 0:
        return
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite {what}; found NaN or infinity; drop or fill these observations first")
    if values.min() < 0:
        raise ValueError(f"expected non-negative {what}; found {values.min()}; pass raw counts (layers['counts'])")
    if values.dtype.kind == "f" and (values != np.round(values)).any():
        raise ValueError(
            f"expected whole-number {what}; found fractions (for example {values[values != np.round(values)][0]:g}); "
            "pass raw counts, not normalized values"
        )


def check_patients(adata: AnnData, sample_key: str = Key.SAMPLE, patient_key: str = Key.PATIENT) -> None:
    """Raise unless every observation has a sample and a patient, and each sample belongs to one patient."""
    for key in (sample_key, patient_key):
        check_obs(adata, key, f"name the sections with obs[{sample_key!r}] and the people with obs[{patient_key!r}]")
        if adata.obs[key].isna().any():
            raise ValueError(
                f"expected obs[{key!r}] without gaps; found {int(adata.obs[key].isna().sum())} missing values"
            )
    pairs = adata.obs[[sample_key, patient_key]].astype(str).drop_duplicates()
    twice = pairs[sample_key][pairs[sample_key].duplicated()].unique()
    if len(twice):
        raise ValueError(f"expected each section to belong to one patient; found several patients in {_few(twice)}")


def as_mask(adata: AnnData, train: Any, name: str = "train") -> np.ndarray:
    """Turn `None` (all), a boolean array or the name of a boolean obs column into a mask (n_obs,)."""
    if train is None:
        return np.ones(adata.n_obs, dtype=bool)
    if isinstance(train, str):
        check_obs(adata, train)
        values = adata.obs[train].to_numpy()
        if values.dtype != bool:
            raise TypeError(f"expected obs[{train!r}] to be boolean; found {values.dtype}")
    else:
        index = getattr(train, "index", None)
        if index is not None and not callable(index) and not adata.obs_names.equals(index):
            raise ValueError(
                f"expected the index of {name} to be the obs_names of the object, in their order; found another; "
                f"align it first: {name}.reindex(adata.obs_names), or pass an array"
            )
        values = np.asarray(train)
        if values.dtype != bool or values.shape != (adata.n_obs,):
            raise ValueError(
                f"expected {name} to be a boolean array of {adata.n_obs} values or an obs key; "
                f"found {values.dtype} of shape {values.shape}"
            )
    if not values.any():
        raise ValueError(f"expected at least one observation in {name}; found none")
    return values
