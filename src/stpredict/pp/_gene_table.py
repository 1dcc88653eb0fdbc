"""What is known of genes, as a table with a row for each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._derangement import derangement
from stpredict.core._gmt import read_gmt
from stpredict.core._validate import check_choice, check_unique, few
from stpredict.pp._gene_rows import expression_rows, joined, random_rows, read_rows, set_rows
from stpredict.pp._sequence_rows import sequence_rows
from stpredict.pp._text_rows import text_rows, texts_of
from stpredict.slots._checks import as_mask, check_obs
from stpredict.slots._container import begin
from stpredict.slots._expression import matrix_of, usable_rows
from stpredict.slots._gene_tables import SEAL, gene_rows, row_digests, table_patients, table_record
from stpredict.slots._keys import Key, check_key
from stpredict.slots._matrix import single_precision
from stpredict.slots._people import among, one_name
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_NAMED = ("expression", "permuted", "random", "sequence", "text")
_WIDTH = 64


def gene_table(
    data: Container,
    source: str | Path | np.ndarray | pd.DataFrame | Mapping[str, Sequence[str]],
    *,
    n_components: int | None = None,
    texts: Mapping[str, str] | pd.Series | str | None = None,
    encoder: str = "all-MiniLM-L6-v2",
    descriptors: AnnData | None = None,
    of: str | None = None,
    train: np.ndarray | str | None = None,
    patients: Sequence[str] | None = None,
    layer: str | None = None,
    missing: Literal["error", "nan"] = "error",
    seed: int = 0,
    key_added: str = Key.GENE_TABLE,
    copy: bool = False,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Write a table with a row for each gene, by which networks such as `"dkan"` know genes, also those they never saw.

    Parameters
    ----------
    data
        AnnData, or SpatialData whose table is used.
    source
        Where the rows come from:

        - an array (n_vars, d) in the order of `var_names`; a DataFrame with the genes as its index; or a file of one: csv or
          tsv with the genes in the first column, parquet, or npz with the names under `genes`;
        - gene sets, a mapping from a name to genes or a file ending in `.gmt`: membership of each gene, a set weighing as
          much as any other, reduced to `n_components` by a truncated singular value decomposition over all genes of the sets;
        - `"text"`: embeddings of `texts` by a sentence encoder :cite:p:`reimers2019`;
        - `"expression"`: rows whose products are the correlations of genes within the sections of the training observations,
          as well as `n_components` numbers can tell them;
        - `"sequence"`: what a network of DNA says of each gene, the `descriptors` of :func:`stpredict.tl.gene_descriptors`;
        - `"random"`: normal numbers that follow from the name of the gene, and `"permuted"`: the rows of the table `of`, each
          given to another gene: controls, which say nothing of a gene.
    n_components
        Width of the table: 64 for `"expression"` and `"random"` when `None`, and all sets for gene sets.
    texts
        For `"text"`: what is written about each gene, by gene, or the name of a column of `var`.
    encoder
        Name or folder of a sentence encoder of sentence-transformers. The weights of the default come with the extra
        `text`; others are fetched from the hub.
    descriptors
        For `"sequence"`: table whose rows are genes, with `obsm["descriptors"]`. Genes are joined by name.
        `descriptors[~descriptors.obs["descriptors_seen"]]` are those whose expression the network was not trained on.
    of
        For `"permuted"`: name of the table in `varm`, `"gene_table"` when `None`.
    train
        For `"expression"`: training observations, a boolean array (n_obs,) or a column of `obs`.
    patients
        For `"expression"`: patients to make it of, instead of `train`. For an array, a DataFrame, a file or `"sequence"`: patients
        whose expression had a part in it, if there are any.
    layer
        For `"expression"`: layer to read instead of `X`.
    missing
        What becomes of genes for which there is no row: `"error"`, or `"nan"`, whose number is recorded; networks
        refuse a panel with such a gene.
    seed
        Random seed of decompositions and controls.
    key_added
        Name of the table.
    copy
        Whether to return a changed copy instead of changing `data`.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `varm[key_added]`: (n_vars, d) float32;
    - `uns["stpredict"][key_added]`: `method`, the settings, the name of a `file`, the `digest` (SHA-256) of what was given,
      the `patients` whose expression had a part in it, for `"sequence"` the `hash`
      of the network and `n_seen`, the number of genes whose chromosome it was trained on, `n_missing`, and digests of the `rows`, by which a table that was
      changed is found.

    A table of expression that saw patients outside the training set is refused by :func:`stpredict.tl.fit`; in the folds of
    :func:`stpredict.tl.cross_validate` it is made anew of the training side of each.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ImportError
        For `"text"`, when sentence-transformers is not installed (extra `text`).
    OSError
        When a sentence encoder cannot be loaded.
    KeyError
        When a column, a layer or the table `of` is missing.
    TypeError
        When the source is of another kind, or holds text.
    ValueError
        When there is no row for a gene and `missing="error"`, a gene has two rows, an array has another length, values
        are infinite, a file is damaged, or `"expression"` is not told its training observations.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=30, n_genes=5)
    >>> sets = {"odd": adata.var_names[::2], "even": adata.var_names[1::2]}
    >>> stp.pp.gene_table(adata, sets)
    >>> (adata.varm["gene_table"] ** 2).round(2)[:3]
    array([[0.33, 0.  ],
           [0.  , 0.5 ],
           [0.33, 0.  ]], dtype=float32)
    """
    check_key(key_added)
    check_choice(missing, ("error", "nan"), "missing")
    container, adata = begin(data, copy, table_key, measured=True)
    check_unique(adata.var_names, "var_names (adata.var_names_make_unique() does that)")
    if n_components is not None and (int(n_components) != n_components or n_components < 1):
        raise ValueError(f"expected n_components to be a whole number of at least 1; found {n_components!r}")
    genes = [str(gene) for gene in adata.var_names]
    width = n_components or _WIDTH
    if descriptors is not None and not (isinstance(source, str) and source == "sequence"):
        raise ValueError("expected descriptors= with the source 'sequence'; found them with another; leave them out")
    method = source if isinstance(source, str) and source in _NAMED else "given"
    record: dict[str, Any] = {"method": method}
    for name, value, known in (
        ("train", train, {"expression"}),
        ("patients", patients, {"expression", "given", "sequence"}),
    ):
        if value is not None and method not in known:
            raise ValueError(
                f"expected no {name}= for this source, which no patient has a part in by itself; found {value!r}"
            )
    if method == "random":
        rows = random_rows(genes, width, seed)
        record |= {"n_components": width, "seed": seed}
    elif method == "permuted":
        rows, record = _permuted(adata, of or Key.GENE_TABLE, seed, record)
    elif method == "expression":
        chosen = _chosen(adata, train, patients, layer, patient_key)
        record |= {"n_components": width, "seed": seed, "layer": layer}
        record["patients"] = sorted(set(one_name(adata.obs[patient_key])[chosen]))
        rows = table_of_expression(adata, chosen, record, sample_key)
    elif method == "text":
        written = texts_of(adata, texts)
        rows = text_rows(written, genes, encoder)
        record |= {"encoder": encoder, "digest": _digest(f"{gene}\0{written.get(gene, '')}".encode() for gene in genes)}
    elif method == "sequence":
        rows, record = sequence_rows(descriptors, genes, record)
        record["patients"] = None if patients is None else sorted(map(str, patients))
    else:
        rows, record = _given(source, genes, n_components, seed)
        record["patients"] = None if patients is None else sorted(map(str, patients))
    record["n_missing"] = _check(rows, genes, missing)
    write_table(adata, key_added, rows, record)
    return container if copy else None


def write_table(adata: AnnData, key: str, rows: np.ndarray, record: Mapping[str, Any]) -> None:
    """Write the rows (n_vars, d) of a table and what is recorded of it."""
    adata.varm[key] = rows
    write_record(adata, key, {**record, "dim": rows.shape[1], SEAL: row_digests(adata.var_names, rows)})


def table_of_expression(
    adata: AnnData, rows: np.ndarray, record: Mapping[str, Any], sample_key: str, genes: Sequence[str] | None = None
) -> np.ndarray:
    """Rows (n_genes, d) float32 of the genes (all when `None`), as a record of a table of expression has its settings.

    `rows` is a mask (n_obs,) of measured training observations. The table is made of all genes of the object, whichever
    rows are asked for.
    """
    values = matrix_of(adata, record.get("layer"))[np.flatnonzero(rows)]
    sample = adata.obs[sample_key].astype(str).to_numpy()[rows]
    table = expression_rows(values, sample, int(record["n_components"]), int(record["seed"]))
    return table if genes is None else table[adata.var_names.get_indexer(list(genes))]


def _chosen(adata: AnnData, train: Any, patients: Sequence[str] | None, layer: str | None, key: str) -> np.ndarray:
    """Mask (n_obs,) of the measured observations that a table of expression is to be made of."""
    if (train is None) == (patients is None):
        raise ValueError(
            "expected the training observations of a table of expression, as train= or as patients=; found "
            f"{'neither' if train is None else 'both'}; test patients may have no part in what a model knows of genes"
        )
    check_obs(adata, key, f"name the people with obs[{key!r}]")
    if patients is None:
        return usable_rows(adata, as_mask(adata, train), layer)
    people = adata.obs[key].astype(str).to_numpy()
    strange = [str(name) for name, known in zip(patients, among(patients, np.unique(people)), strict=True) if not known]
    if strange or not len(patients):
        raise KeyError(f"expected patients among {few(np.unique(people))}; found {few(strange) or 'none'}")
    return usable_rows(adata, among(people, patients), layer)


def _permuted(adata: AnnData, of: str, seed: int, record: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The rows of another table, each given to another gene; whoever had a part in that one had it in this one."""
    table = gene_rows(adata, of)
    if len(table) < 2:
        raise ValueError(f"expected at least two genes to permute; found {len(table)}")
    before = table_record(adata, of)
    return table[derangement(len(table), seed)], record | {
        "of": of, "seed": seed, "digest": (before or {}).get("digest"), "patients": table_patients(before) or None,
    }  # fmt: skip


def _given(source: Any, genes: Sequence[str], n_components: int | None, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Rows that somebody brings: an array, a table or gene sets, or a file of these."""
    record: dict[str, Any] = {"method": "given"}
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(
                f"expected one of {', '.join(_NAMED)}, or a file with a table of genes; found no file {path}"
            )
        record |= {"file": path.name, "digest": _digest([path.read_bytes()])}
        sets = path.name.removesuffix(".gz").lower().endswith(".gmt")
        source = read_gmt(path) if sets else read_rows(path)
    if isinstance(source, Mapping):
        named = {str(name): [str(gene) for gene in members] for name, members in source.items()}
        record.setdefault("digest", _digest("\t".join([name, *named[name]]).encode() + b"\n" for name in named))
        record |= {"method": "sets", "n_sets": len(named), "n_components": n_components, "seed": seed}
        return joined(set_rows(named, n_components, seed), genes, "the gene sets"), record
    if n_components is not None:
        raise ValueError("expected n_components with gene sets, 'expression' or 'random'; found it with a table")
    if hasattr(source, "iloc"):
        rows = joined(source, genes, "the table")
    else:
        rows = np.array(single_precision(source, "the table"))
        if rows.ndim != 2 or len(rows) != len(genes):
            raise ValueError(
                f"expected an array ({len(genes)}, d) with a row for each of var_names; found {rows.shape}; pass a DataFrame "
                "with the genes as its index to join it by name"
            )
    record.setdefault("digest", _digest([row_digests(genes, rows).tobytes()]))
    return rows, record


def _check(rows: np.ndarray, genes: Sequence[str], missing: str) -> int:
    """Number of genes without a row; an error for them unless they may be, for infinity, and where no gene has one."""
    if np.isinf(rows).any():
        raise ValueError("expected finite rows of genes; found infinity; correct them first")
    gone = np.isnan(rows).any(axis=1)
    if gone.all() or (gone.any() and missing == "error"):
        names = [gene for gene, absent in zip(genes, gone, strict=True) if absent]
        call = "name the genes the same way" if gone.all() else "leave these genes out, or pass missing='nan'"
        raise ValueError(
            f"expected a row for each of {len(genes)} genes; found none for {len(names)} ({few(names)}); {call}"
        )
    rows[gone] = np.nan
    return int(gone.sum())


def _digest(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
