"""A table of what is known of genes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_finite, few
from stpredict.pp._gene_table import table_of_expression
from stpredict.slots._checks import check_genes
from stpredict.slots._gene_tables import SEAL, gene_rows, made, row_digests, table_patients, table_record
from stpredict.slots._marks import UNKNOWN
from stpredict.slots._people import strangers
from stpredict.tl.learn.inputs._reader import Reader, Source

if TYPE_CHECKING:
    from anndata import AnnData

NAME = "gene_table"
_CALL = "stp.pp.gene_table(adata, …)"


class GeneTable(Reader):
    """`varm[config.gene_table]` (n_vars, d): text, sequence or any other embedding of genes."""

    names = (NAME,)

    def read(self, source: Source) -> dict[str, Any]:
        """Rows (n_genes, d) float32 of the panel; in a fold, those of expression made of its training observations."""
        adata, key = source.adata, source.config.gene_table
        whole = gene_rows(adata, key)
        check_genes(adata, source.genes)
        record = table_record(adata, key)
        if source.train is not None and _of_expression(record):
            assert record is not None  # it says so
            table = table_of_expression(adata, source.train, record, source.sample_key, source.genes)
        else:
            table = whole[adata.var_names.get_indexer(list(source.genes))]
        check_finite(table, f"rows of varm[{key!r}] for the panel", f"run {_CALL} again, or leave these genes out")
        return {NAME: table}


def how_made(adata: AnnData, key: str | None) -> dict[str, Any]:
    """How a table of an object was made, as far as that is recorded."""
    return made(table_record(adata, key)) if key is not None and key in adata.varm else {}


def _of_expression(record: Mapping[str, Any] | None) -> bool:
    return record is not None and record.get("method") == "expression"


def table_strangers(
    adata: AnnData, keys: Iterable[str], people: Iterable[str], *, anew: bool, allow_leakage: bool
) -> list[str]:
    """Patients outside the training set whose expression had a part in tables of genes; `"unknown"` where nobody says.

    Parameters
    ----------
    adata
        The object.
    keys
        Names of the tables.
    people
        Training patients.
    anew
        Whether tables of expression are made anew of the training observations.
    allow_leakage
        Whether to accept others; a `ValueError` otherwise.
    """
    found: set[str] = set()
    for key in keys:
        gene_rows(adata, key)
        record = table_record(adata, key)
        if anew and _of_expression(record):
            continue
        own = strangers(table_patients(record), people)
        others = [name for name in own if name != UNKNOWN]
        if others and not allow_leakage:
            raise ValueError(
                f"expected a table of genes that test patients have no part in; found {few(others)} among the patients behind "
                f"varm[{key!r}]; call stp.pp.gene_table(adata, 'expression', train=train), or pass allow_leakage=True and have "
                "every score marked as leaky"
            )
        found.update(own)
    return sorted(found)


def warn_of_unrecorded(adata: AnnData, keys: Iterable[str]) -> None:
    """Warn where nobody wrote down how a table was made, or it was changed after that."""
    if names := [f"varm[{key!r}]" for key in dict.fromkeys(keys) if table_record(adata, key) is None]:
        warnings.warn(
            f"nobody wrote down how {few(names)} was made as it is now, which may hold something of the expression to be "
            "predicted: predictions and scores are marked as 'unknown' where they would be False; write the table with "
            f"{_CALL}",
            stacklevel=4,
        )


def describe_table(genes: Iterable[str], table: np.ndarray, how: Mapping[str, Any]) -> dict[str, Any]:
    """What a model has to know of its table (n_genes, d) to recognize it elsewhere: how it was made, and its rows."""
    return {"made": dict(how), SEAL: row_digests(genes, table).tolist()}


def check_same_table(adata: AnnData, key: str, known: Mapping[str, Any], panel: Iterable[str]) -> None:
    """Raise where an object has another table than the one that a model knows its genes by."""
    table = gene_rows(adata, key)
    names = [gene for gene in map(str, panel) if gene in adata.var_names]
    own = row_digests(names, table[adata.var_names.get_indexer(names)])
    same = np.isin(own, np.asarray(known[SEAL], dtype=np.int64))
    changed = [gene for gene, found in zip(names, same, strict=True) if not found]
    found = how_made(adata, key)
    differing = [name for name in known["made"] if found and found.get(name) != known["made"][name]]
    if changed or differing:
        what = (
            f"other rows for {len(changed)} genes of the model ({few(changed)})"
            if changed
            else "; ".join(f"{name}: model {known['made'][name]!r}, data {found.get(name)!r}" for name in differing)
        )
        raise ValueError(
            f"expected in varm[{key!r}] the table that the model knows genes by; found {what}; make it the same way, or, where it "
            "is made of expression, copy it from the object that the model was fitted on: stp.pp.gene_table(adata, table)"
        )
