"""Rows of tables of genes, from arrays and files by the names of the genes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._constant import constant
from stpredict.core._files import check_columns, damage_named, parse_table, read_parquet, read_text, separator
from stpredict.core._validate import check_unique
from stpredict.slots._matrix import dense_matrix, single_precision

if TYPE_CHECKING:
    import pandas as pd

_WHAT = "a table of genes"
_NAMES = ("genes", "gene", "names", "index")  # of an npz file


def random_rows(genes: Sequence[str], n_components: int, seed: int) -> np.ndarray:
    """Independent standard normal rows (n_genes, n_components) that follow from the seed and the name of each gene."""
    rows = np.empty((len(genes), n_components), dtype=np.float32)
    for row, gene in zip(rows, genes, strict=True):
        digest = hashlib.blake2b(f"{seed}\0{gene}".encode(), digest_size=16).digest()
        row[:] = np.random.default_rng(int.from_bytes(digest)).standard_normal(n_components)
    return rows


def expression_rows(values: Any, sample: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    """Rows of genes whose products are their correlations over observations, as well as so few numbers can.

    Parameters
    ----------
    values
        (n_obs, n_genes), dense or sparse.
    sample
        (n_obs,) section of each; means of sections are taken out, so that what tells sections apart has no part in it.
    n_components
        Width of the table, at most `n_obs` and `n_genes`.
    seed
        Random seed of the decomposition.

    Returns
    -------
    (n_genes, n_components) float32; zeros for genes that do not vary.
    """
    from sklearn.utils.extmath import randomized_svd

    values = np.array(single_precision(values, "the expression"))
    means = np.zeros_like(values)
    for name in np.unique(sample):
        rows = sample == name
        means[rows] = values[rows].mean(axis=0)
    spread = (values - means).std(axis=0)
    values = (values - means) / np.where(constant(spread, np.abs(means).max(axis=0)), np.inf, spread)
    _, size, directions = randomized_svd(
        values, min(n_components, *values.shape), n_oversamples=20, n_iter=6, random_state=seed
    )
    return np.asarray((directions * size[:, None]).T / np.sqrt(len(values)), dtype=np.float32)


def set_rows(sets: Mapping[str, Sequence[str]], n_components: int | None, seed: int) -> pd.DataFrame:
    """Membership of genes in gene sets, of all genes of the sets, whichever are measured.

    A set weighs as much as any other, whatever its size. Reduced to `n_components` by a truncated singular value
    decomposition; all sets where it is `None`, or there are no more.
    """
    import pandas as pd
    from scipy import sparse
    from sklearn.decomposition import TruncatedSVD

    pairs = [(str(gene), i) for i, names in enumerate(sets.values()) for gene in dict.fromkeys(map(str, names))]
    if not pairs:
        raise ValueError(
            "expected gene sets with genes; found none; pass a mapping from a name to genes, or a GMT file"
        )
    genes = sorted({gene for gene, _ in pairs})
    place = {gene: row for row, gene in enumerate(genes)}
    column = np.array([i for _, i in pairs])
    weight = 1 / np.sqrt(np.bincount(column, minlength=len(sets)))[column]
    member = sparse.csr_matrix(
        (weight, ([place[gene] for gene, _ in pairs], column)), shape=(len(genes), len(sets)), dtype=np.float64
    )
    if n_components is None or n_components >= min(member.shape):
        return pd.DataFrame(member.toarray().astype(np.float32), index=genes)
    reduced = TruncatedSVD(n_components, n_iter=10, random_state=seed).fit_transform(member)
    return pd.DataFrame(reduced.astype(np.float32), index=genes)


def read_rows(path: Path) -> pd.DataFrame:
    """Table of a file, its genes as the index: the first column of text, or of a parquet file without an index of names.

    An `.npz` file has the numbers and, under `genes`, their names; other text is CSV or TSV, plain or gzip.
    """
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(f"expected {_WHAT} at {path}; found no such file")
    ending = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if ending == "npz":
        return _of_npz(path)
    if ending == "parquet":
        table = read_parquet(path, _WHAT)
        if isinstance(table.index, pd.RangeIndex) and len(table.columns):
            table = table.set_index(table.columns[0])
        return table
    if ending not in {"csv", "tsv", "txt"}:
        raise ValueError(
            f"expected {_WHAT} as csv, tsv, npz, parquet or gmt; found {path.name}; write it in one of these, or pass a "
            "DataFrame with the genes as its index"
        )
    text = read_text(path, _WHAT)
    return parse_table(text, path, _WHAT, sep=separator(text, "\t" if ending == "tsv" else ","), index_col=0)


def _of_npz(path: Path) -> pd.DataFrame:
    import pandas as pd

    with damage_named(path, _WHAT), np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    names = next((name for name in _NAMES if name in arrays), None)
    tables = [name for name, values in arrays.items() if values.ndim == 2]
    if names is None or len(tables) != 1 or len(arrays[names]) != len(arrays[tables[0]]):
        shapes = {name: values.shape for name, values in arrays.items()}
        raise ValueError(
            f"expected one table (n_genes, d) and the names of its rows, as `genes`, in {path}; found {shapes}; write it "
            "with numpy.savez(path, genes=names, table=table)"
        )
    return pd.DataFrame(arrays[tables[0]], index=arrays[names].astype(str))


def joined(table: pd.DataFrame, genes: Sequence[str], what: str) -> np.ndarray:
    """Rows (n_genes, d) float32 of a table by the names of the genes; NaN for genes that it lacks."""
    import pandas as pd

    index = pd.Index(table.index.astype(str))
    check_unique(index, f"genes in {what}")
    if not table.shape[1]:
        check_columns(table, ["a number"], what)
    values = single_precision(dense_matrix(table, what), what)
    at = index.get_indexer(pd.Index(genes))
    found = np.full((len(genes), values.shape[1]), np.nan, dtype=np.float32)
    found[at >= 0] = values[at[at >= 0]]
    return found
