"""Counts of a folder of 10x mtx files."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._files import damage_named, parse_table, read_bytes, read_text, separator
from stpredict.core._validate import few

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_WHAT = "a sparse matrix (MatrixMarket)"
_EXPRESSION = "Gene Expression"


def read_counts_mtx(folder: Path) -> AnnData:
    """Counts of the genes, observations × genes, from `matrix.mtx`, `barcodes.tsv` and `features.tsv` or `genes.tsv`.

    Each may be gzip or plain, and carry a prefix. Features of other types than genes are left out.

    Raises `FileNotFoundError` when a file is missing, and `ValueError` when one is damaged or they do not fit together.
    """
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    matrix_path = _find(folder, r"matrix\.mtx", "matrix.mtx")
    barcodes_path = _find(folder, r"barcodes\.tsv", "barcodes.tsv")
    features_path = _find(folder, r"(?:features|genes)\.tsv", "features.tsv or genes.tsv")
    n_genes, n, entries = _read_matrix(matrix_path)
    barcodes = _read_names(barcodes_path, n, "barcodes", matrix_path)[0].to_numpy(dtype=object)
    features = _read_names(features_path, n_genes, "features", matrix_path)
    # The size that the matrix claims is that of lists which were read, so that it is no absurd one.
    matrix = sparse.csr_matrix(
        (entries["value"].to_numpy(), (entries["column"].to_numpy() - 1, entries["row"].to_numpy() - 1)),
        shape=(n, n_genes),
    )
    var = pd.DataFrame({"gene_ids": features[0].to_numpy(dtype=object)})
    var.index = pd.Index(features[1 if 1 in features else 0].to_numpy(dtype=object))
    if 2 in features:
        var["feature_types"] = features[2].to_numpy(dtype=object)
    counts = AnnData(matrix, obs=pd.DataFrame(index=barcodes), var=var)
    if "feature_types" not in var:
        return counts
    keep = (var["feature_types"] == _EXPRESSION).to_numpy()
    if not keep.any():
        raise ValueError(
            f"expected features of the type {_EXPRESSION!r} in {features_path}; found {few(var['feature_types'])}"
        )
    return counts if keep.all() else counts[:, keep].copy()


def _find(folder: Path, pattern: str, what: str) -> Path:
    names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
    found = [name for name in names if re.fullmatch(rf"(?:.*[._-])?{pattern}(?:\.gz)?", name)]
    exact = [name for name in found if re.fullmatch(rf"{pattern}(?:\.gz)?", name)]
    if found := exact or found:
        stems = {name.removesuffix(".gz") for name in found}
        if len(stems) == 1:
            return folder / found[0]
        raise ValueError(f"expected one {what} in {folder}; found {few(found)}; keep one of them there")
    raise FileNotFoundError(f"expected {what} (or .gz) in {folder}; found {few(names, 8) or 'an empty folder'}")


def _read_matrix(path: Path) -> tuple[int, int, pd.DataFrame]:
    """Numbers of rows and columns, and the entries (row, column, value), counted from 1."""
    import pandas as pd

    data = read_bytes(path, _WHAT)
    if not data.startswith(b"%%MatrixMarket"):
        raise ValueError(f"expected {_WHAT} in {path}; found a file that begins with {data[:20]!r}; fetch it again")
    stream = io.BytesIO(data)
    header = stream.readline().decode("latin-1").casefold().split()
    if (
        header[1:3] != ["matrix", "coordinate"]
        or header[3:4] not in (["integer"], ["real"])
        or header[4:] != ["general"]
    ):
        raise ValueError(
            f"expected '%%MatrixMarket matrix coordinate integer general' in {path}; found {' '.join(header)!r}"
        )
    line = stream.readline()
    while line.startswith(b"%") or (line and not line.strip()):
        line = stream.readline()
    sizes = line.split()
    if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
        raise ValueError(f"expected rows, columns and entries of {path} in a line of their own; found {line[:40]!r}")
    n_rows, n_columns, n_entries = map(int, sizes)
    names = ["row", "column", "value"]
    body = stream.read()
    if body.strip():
        entries = _parse_entries(body, path, names)
    else:
        entries = pd.DataFrame({name: np.zeros(0, dtype=np.int64) for name in names})
    if len(entries) != n_entries:
        raise ValueError(
            f"expected {n_entries} entries in {path}; found {len(entries)}, a cut or damaged file; fetch it again"
        )
    for name, size in (("row", n_rows), ("column", n_columns)):
        if len(entries) and (entries[name].min() < 1 or entries[name].max() > size):
            raise ValueError(
                f"expected a {name} from 1 to {size} for every entry of {path}; found others; fetch it again"
            )
    return n_rows, n_columns, entries


def _parse_entries(body: bytes, path: Path, names: list[str]) -> pd.DataFrame:
    import pandas as pd

    with damage_named(path, "rows, columns and values"):
        entries = pd.read_csv(
            io.BytesIO(body), sep=r"\s+", header=None, names=names, index_col=False, encoding="latin-1"
        )
    kinds = [dtype.kind for dtype in entries.dtypes]
    if kinds[:2] != ["i", "i"] or kinds[2] not in "if" or entries["value"].isna().any():
        raise ValueError(f"expected numbers, row, column and value, in every line of {path}; found text or gaps")
    return entries


def _read_names(path: Path, n: int, what: str, matrix_path: Path) -> pd.DataFrame:
    """Lines of a list, split into columns, without a header where it has one."""
    text = read_text(path, what)
    if not text.strip():
        raise ValueError(f"expected {n} {what} in {path}; found an empty file")
    table = parse_table(
        text, path, what, sep=separator(text, "\t"), header=None, dtype=str, na_filter=False, skip_blank_lines=True
    )
    if len(table) == n + 1:
        table = table.iloc[1:]
    if len(table) != n:
        raise ValueError(
            f"expected {n} {what} in {path}, as many as {matrix_path.name} has; found {len(table)}; check that both belong "
            "together"
        )
    return table.apply(lambda column: column.str.strip()).reset_index(drop=True)
