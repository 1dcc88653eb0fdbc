"""Where genes start: from a GTF file or a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._files import numbers, parse_table, read_text, separator
from stpredict.core._gtf import read_gtf
from stpredict.core._validate import check_unique, few
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (Key.CHROM, Key.TSS, Key.STRAND)
_ASK = (
    "pass a GTF file, or a table indexed by gene with the columns chrom, tss (counted from 1) and strand ('+' or '-')"
)


def gene_starts(genes: pd.DataFrame | str | Path, names: Sequence[str] | None) -> pd.DataFrame:
    """Chromosome, first transcribed base (counted from 1) and strand of genes, indexed by name.

    Of a GTF file the start of the gene, which is that of its outermost transcript; genes whose name stands for several places
    are left out unless they are asked for, which is an error.
    """
    table: Any = genes
    if hasattr(genes, "columns"):
        where = "the table"
    else:
        path, where = Path(str(genes)), Path(str(genes)).name
        if not path.is_file():
            raise FileNotFoundError(f"expected a GTF file or a table with the starts of genes at {path}; found none")
        table = _of_gtf(path) if re.search(r"\.gtf(\.gz)?$", path.name, re.IGNORECASE) else _of_table(path)
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise KeyError(
            f"expected the columns {', '.join(_COLUMNS)} in {where}; found {few(table.columns, 8) or 'none'}; {_ASK}"
        )
    table = table.set_axis(table.index.astype(str))
    if names is None:
        if not hasattr(genes, "columns"):
            table = table[~table.index.duplicated(keep=False)]
    else:
        names = [str(name) for name in names]
        check_unique(names, "names of genes")
        absent = [name for name in names if name not in table.index]
        if absent or not names:
            raise KeyError(
                f"expected genes of {where}; found no {few(absent) or 'names at all'}; name genes as it does"
            )
        table = table.loc[names]
    check_unique(table.index, f"genes in {where}")
    return _checked(table, where)


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    if not len(table):
        raise ValueError(f"expected at least one gene in {where}; found none")
    tss = numbers(table[Key.TSS])
    if tss is None or not (tss % 1 == 0).all() or tss.min() < 1:
        raise ValueError(f"expected whole numbers from 1 as `tss` in {where}; found others; {_ASK}")
    strand = table[Key.STRAND].astype(str)
    strange = table.index[~strand.isin(["+", "-"])]
    if len(strange):
        raise ValueError(
            f"expected '+' or '-' as `strand` in {where}; found others for {few(strange)}; {_ASK}: which way a gene reads decides "
            "which strand is shown"
        )
    if table[Key.CHROM].isna().any():
        raise ValueError(f"expected a chromosome for every gene in {where}; found gaps; {_ASK}")
    others = [name for name in table.columns if name not in _COLUMNS]
    found = table[others].copy()
    found[Key.CHROM], found[Key.TSS], found[Key.STRAND] = table[Key.CHROM].astype(str), tss.astype(np.int64), strand
    return found[[*_COLUMNS, *others]]


def _of_gtf(path: Path) -> pd.DataFrame:
    table = read_gtf(path)
    minus = table["strand"] == "-"
    table[Key.TSS] = table["start"].where(~minus, table["end"])
    return table.rename(columns={"chromosome": Key.CHROM})[[*_COLUMNS, "gene_id"]]


def _of_table(path: Path) -> pd.DataFrame:
    what = "starts of genes"
    text = read_text(path, what)
    sep = separator(text, "\t", 1 + len(_COLUMNS))
    table: Any = parse_table(text, path, what, sep=sep, index_col=0, dtype={Key.CHROM: str, Key.STRAND: str})
    return table
