"""Tables of genes in `varm`: whose expression had a part in them, and whether they still are as recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._marks import UNKNOWN
from stpredict.slots._matrix import single_precision
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData

SEAL = "rows"
_BYTES = 6  # of a digest
#: What a record says of how a table was made; two tables that differ in it have nothing to do with each other.
_MADE = ("method", "encoder", "n_components", "seed", "dim", "hash")


def gene_rows(adata: AnnData, key: str) -> np.ndarray:
    """The table `varm[key]` (n_vars, d) float32; `KeyError` where there is none, `ValueError` where it is no table."""
    if key not in adata.varm:
        raise KeyError(
            f"expected a table of genes in varm[{key!r}]; found {sorted(adata.varm)}; run stp.pp.gene_table(adata, …, "
            f"key_added={key!r}), or name another with hyperparameters={{'gene_table': …}}"
        )
    table = single_precision(adata.varm[key], f"varm[{key!r}]")
    if table.ndim != 2:
        raise ValueError(f"expected a table (n_vars, d) in varm[{key!r}]; found {table.ndim} axes")
    return table


def row_digests(genes: Iterable[str], table: np.ndarray) -> np.ndarray:
    """Digests (n_genes,) int64 of the rows of a table with the names of their genes.

    They stay with their gene when others are left out, and when the order changes. They have 48 bits, which every store and
    JSON hold as they are.
    """
    rows = np.ascontiguousarray(np.where(np.isnan(table), np.nan, table), dtype="<f4")
    digests = [
        hashlib.blake2b(f"{gene}\0".encode() + row.tobytes(), digest_size=_BYTES).digest()
        for gene, row in zip(genes, rows, strict=True)
    ]
    return np.array([int.from_bytes(digest) for digest in digests], dtype=np.int64)


def as_recorded(genes: Sequence[str], table: np.ndarray, record: Mapping[str, Any]) -> bool:
    """Whether the rows of some genes are among those of the table that a record is about."""
    known = np.asarray(record.get(SEAL, []), dtype=np.int64)
    return bool(np.isin(row_digests(genes, table), known).all())


def table_record(adata: AnnData, key: str) -> dict[str, Any] | None:
    """What is recorded of a table of genes; `None` where nothing is, or the table was changed after it."""
    record = read_record(adata, key)
    if record is None or SEAL not in record:
        return None
    return record if as_recorded(adata.var_names.astype(str), gene_rows(adata, key), record) else None


def table_patients(record: Mapping[str, Any] | None) -> list[str]:
    """Patients whose expression had a part in a table; `"unknown"` where nobody wrote down how it was made."""
    if record is None:
        return [UNKNOWN]
    return [str(name) for name in np.atleast_1d(record.get("patients", []))]


def made(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a record says of how a table was made, whichever genes it is of."""
    if record is None:
        return {}
    whole = record.get("method") == "sets" or "file" in record  # digests of other tables are those of their genes
    return {name: record[name] for name in (*_MADE, *(["digest"] if whole else [])) if name in record}
