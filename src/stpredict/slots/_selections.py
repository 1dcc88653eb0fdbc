"""Selections of genes that an object knows of, and whether a list of genes comes from one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._marks import UNKNOWN
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData

#: Methods by which `stp.pp.select_genes` and `stp.pp.filter_genes` look at the expression.
_LOOKED = frozenset({"moran", "spatial_hvg", "mean", "filter"})
_FEW = 5  # genes that may lie within a selection by chance, or because they are the usual markers
# Columns of `var` that say what a gene is, and those that a look at the data has left.
_ABOUT_GENES = re.compile(r"(?i)mt|mito|ribo|rb|hb|hemo|ercc|protein|coding|feature_is_filtered|signal$")
_FROM_DATA = re.compile(r"(?i).*(variable|hvg|svg|select|moran|sepal|spatialde|expressed)")


@dataclass(frozen=True)
class Selection:
    """Genes that were chosen by a look at the expression.

    Attributes
    ----------
    name
        Where it stands, for messages.
    genes
        Its genes.
    patients
        Those whose expression was looked at; `"unknown"` where nobody wrote that down.
    left_some
        Whether it left genes out.
    loose
        Whether it takes most genes, so that a short list within it says nothing.
    """

    name: str
    genes: frozenset[str]
    patients: tuple[str, ...]
    left_some: bool
    loose: bool


def selections(adata: AnnData) -> Iterator[Selection]:
    """Every selection that is recorded, and every boolean column of `var` of which nobody wrote down how it was made."""
    recorded = set()
    for key in adata.uns.get(Key.UNS, {}):
        record = read_record(adata, key)
        if not isinstance(record, dict) or record.get("method") not in _LOOKED | {"given"}:
            continue
        recorded.add(key)
        genes = {str(gene) for gene in np.atleast_1d(record.get("genes", []))}
        if not genes and key in adata.var:
            genes = set(adata.var_names[_booleans(adata.var[key], adata.n_vars)])
        patients = tuple(str(name) for name in np.atleast_1d(record.get("patients", [])))
        if genes and (patients or record["method"] in _LOOKED - {"filter"}):
            left = sum((record.get("dropped") or {"some": 1}).values()) > 0
            loose = record["method"] == "filter" or 2 * len(genes) > max(adata.n_vars, 1)
            yield Selection(f"uns['stpredict'][{key!r}]", frozenset(genes), patients or (UNKNOWN,), left, loose)
    for key in adata.var.columns:
        if str(key) in recorded or _ABOUT_GENES.match(str(key)):
            continue
        chosen = _booleans(adata.var[key], adata.n_vars)
        made = _FROM_DATA.match(str(key)) is not None
        if chosen.any() and (made or not chosen.all()):
            own = frozenset(map(str, adata.var_names[chosen]))
            yield Selection(f"var[{key!r}]", own, (UNKNOWN,), made, not made or 2 * len(own) > adata.n_vars)
    if "hvg" in adata.uns and "highly_variable" not in adata.var:
        yield Selection("uns['hvg']", frozenset(map(str, adata.var_names)), (UNKNOWN,), True, True)


def taken_from(adata: AnnData, genes: Iterable[str]) -> list[tuple[Selection, bool]]:
    """The selections that a list of genes coincides with (`True`), or was perhaps cut from (`False`).

    A list coincides with a selection when it has at least half of its genes, and hardly any others: nine in ten of the
    list, or the whole selection and at most as many others. It was perhaps cut from it when nine in ten of it, and five
    genes or more, are among those of a selection that takes no more than half of the genes.
    """
    own = {str(gene) for gene in genes}
    found = []
    for selection in selections(adata):
        n = len(own & selection.genes)
        whole = n == len(selection.genes) and 2 * n >= len(own)
        if n == 0 or not (10 * n >= 9 * len(own) or whole):
            continue
        if 2 * n >= len(selection.genes) and not selection.name.startswith("uns['hvg']"):
            found.append((selection, True))
        elif n >= _FEW and not selection.loose:
            found.append((selection, False))
    return found


def cut_to(adata: AnnData) -> list[Selection]:
    """The selections that all genes of the object are from, so that it was cut to them."""
    every = set(map(str, adata.var_names))
    return [selection for selection in selections(adata) if selection.left_some and every <= selection.genes]


def patients_of(adata: AnnData, genes: Iterable[str]) -> list[str]:
    """Patients whose expression had a part in a list of genes; `"unknown"` among them where that cannot be told."""
    seen = [
        name for selection, same in taken_from(adata, genes) for name in (selection.patients if same else (UNKNOWN,))
    ]
    return sorted(set(seen))


def _booleans(column: Any, n: int) -> np.ndarray:
    """Mask (n,) of a column of booleans, or of their text; none of one that holds something else."""
    if column.dtype == bool or str(column.dtype) == "boolean":
        return column.fillna(False).to_numpy(dtype=bool)
    text = column.astype(str).str.strip().str.casefold()
    if column.dtype.kind in "iuf" or not text.isin(["true", "false", "nan", "<na>", "none"]).all():
        return np.zeros(n, dtype=bool)
    return (text == "true").to_numpy()
