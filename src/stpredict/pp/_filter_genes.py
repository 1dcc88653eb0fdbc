"""Genes of bulk expression by biotype and median."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_finite, few
from stpredict.slots._checks import as_mask
from stpredict.slots._container import begin
from stpredict.slots._expression import matrix_of, measured_rows
from stpredict.slots._keys import Key, check_key
from stpredict.slots._people import one_name
from stpredict.slots._provenance import genes_digest, write_record

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

SEQUOIA_TYPES = ("protein_coding", "miRNA", "lncRNA")
_SYNONYMS = {"microrna": "mirna", "longnoncodingrna": "lncrna"}


def filter_genes(
    data: Container,
    *,
    gene_types: Sequence[str] | str | None = SEQUOIA_TYPES,
    gene_type_key: str = "gene_type",
    min_median: float | None = None,
    train: np.ndarray | str | None = None,
    layer: str | None = None,
    patient_key: str = Key.PATIENT,
    key_added: str | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Keep genes of some biotypes, and those that are expressed in the median training patient.

    Genes are removed from the object, as by :func:`scanpy.pp.filter_genes`; with `key_added` they are only marked. The
    defaults are the biotypes of SEQUOIA :cite:p:`pizurica2024`, whose median was taken over the whole cohort, test
    patients included.

    Parameters
    ----------
    data
        AnnData, or SpatialData whose table is used.
    gene_types
        Biotypes to keep, whatever their case, hyphens and spaces (`"protein coding"` is `"protein_coding"`); all when
        `None`.
    gene_type_key
        Column of `var` with the biotype.
    min_median
        Median over the training patients that a gene must exceed, in the unit of `X`; 0 drops genes that half of the
        patients do not express. Several slides of a patient are averaged first.
    train
        Training observations, a boolean array (n_obs,) or a column of `obs`, that the median is taken over; all
        measured ones when `None`.
    layer
        Layer to read instead of `X`.
    patient_key
        Column of `obs` that names the patient; without it every observation counts by itself.
    key_added
        Column of `var` to mark the genes in, instead of removing the others. A column `"selected"` is the panel of
        :func:`stpredict.tl.fit`.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Removes genes from the object, or writes

    - `var[key_added]`: whether the gene is kept, where `key_added` is given.
    - `uns["stpredict"]["filter_genes"]` (or `[key_added]`): `method`, `layer`, `gene_types`, `min_median`, `n_genes`,
      `digest`, the number of genes that each filter removed (`dropped`), and for a median the `patients`, `samples` and
      `n_observations` that it was taken over.

    Raises
    ------
    KeyError
        When `var[gene_type_key]` or the layer is missing.
    ValueError
        When no gene is left, there is nothing to filter by, or no training observation was measured.
    TypeError
        When `data` is neither AnnData nor SpatialData. Also when `obs[train]` is not boolean.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import stpredict as stp
    >>> var = pd.DataFrame({"gene_type": ["protein_coding", "miRNA", "TEC"]}, index=["ESR1", "MIR21", "AC1"])
    >>> adata = ad.AnnData(np.array([[3.0, 0.0, 1.0], [2.0, 0.0, 1.0]]), var=var)
    >>> stp.pp.filter_genes(adata, min_median=0)
    >>> adata.var_names.tolist()
    ['ESR1']
    """
    check_key(key_added)
    container, adata = begin(data, copy, table_key, measured=True)
    if gene_types is None and min_median is None:
        raise ValueError("expected gene_types or min_median to filter by; found neither")
    passes = np.ones(adata.n_vars, dtype=bool)
    dropped: dict[str, int] = {}
    entry: dict[str, Any] = {"method": "filter", "min_median": min_median, "layer": layer}
    if gene_types is not None:
        types = [gene_types] if isinstance(gene_types, str) else [str(name) for name in gene_types]
        passes &= _of_types(adata, types, gene_type_key)
        dropped["gene_types"] = int((~passes).sum())
        entry["gene_types"] = types
        if not passes.any():
            found = adata.var[gene_type_key].dropna().astype(str).value_counts().index
            raise ValueError(
                f"expected genes of the types {few(types)} in var[{gene_type_key!r}]; found {few(found) or 'no types'}"
            )
    if min_median is not None:
        rows = as_mask(adata, train)
        matrix = matrix_of(adata, layer)
        rows = rows & measured_rows(adata, matrix)
        if not rows.any():
            raise ValueError("expected measured expression in the training observations; found none; see `train=`")
        columns = np.flatnonzero(passes)
        passes[columns] = _medians(adata, matrix, rows, columns, patient_key) > min_median
        dropped["min_median"] = len(columns) - int(passes.sum())
        if not passes.any():
            raise ValueError(
                f"expected genes with a median above {min_median} over {int(rows.sum())} training observations; found "
                f"none among {len(columns)}; lower min_median (it is in the unit of X)"
            )
        for name, column in (("samples", Key.SAMPLE), ("patients", patient_key)):
            if column in adata.obs:
                entry[name] = sorted(set(adata.obs[column].astype(str).to_numpy()[rows]))
        entry["n_observations"] = int(rows.sum())
        entry["genes"] = list(adata.var_names[passes])

    genes = adata.var_names[passes]
    entry |= {"dropped": dropped, "n_genes": len(genes), "digest": genes_digest(map(str, genes))}
    if key_added is None:
        adata._inplace_subset_var(passes)  # what scanpy's filters call
    else:
        adata.var[key_added] = passes
    write_record(adata, key_added or "filter_genes", entry)
    return container if copy else None


def _of_types(adata: AnnData, wanted: Sequence[str], key: str) -> np.ndarray:
    if key not in adata.var:
        raise KeyError(
            f"expected var[{key!r}] with the biotype of every gene; found {list(adata.var.columns)}; add it, name another "
            "column with `gene_type_key=`, or pass gene_types=None"
        )
    plain = {_plain(name) for name in wanted}
    types = adata.var[key]
    return np.array(
        [not gap and _plain(name) in plain for name, gap in zip(types, types.isna(), strict=True)], dtype=bool
    )


def _plain(name: str) -> str:
    letters = re.sub(r"[^a-z0-9]", "", str(name).lower())
    return _SYNONYMS.get(letters, letters)


def _medians(adata: AnnData, matrix: Any, rows: np.ndarray, columns: np.ndarray, patient_key: str) -> np.ndarray:
    """Median over patients (n_columns,) of the mean over the rows of each."""
    values = matrix[np.flatnonzero(rows)][:, columns]
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    check_finite(values, "expression of the measured training observations", "drop these genes, or leave the rows out")
    if patient_key in adata.obs:
        import pandas as pd

        code, names = pd.factorize(one_name(adata.obs[patient_key])[rows])
        if len(names) < len(code):
            order = np.argsort(code, kind="stable")
            count = np.bincount(code)
            starts = np.concatenate([[0], np.cumsum(count)[:-1]])
            values = np.add.reduceat(values[order], starts, axis=0, dtype=np.float64) / count[:, None]
    return np.median(values, axis=0)
