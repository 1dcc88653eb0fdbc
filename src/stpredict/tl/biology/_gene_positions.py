"""Where genes lie on chromosomes: from a table, a GTF file, the variables of an object, or the table of hgfind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._files import numbers, parse_table, read_text, separator
from stpredict.core._gtf import read_gtf
from stpredict.tl.biology._ensembl import ensembl_genes, unambiguous_synonyms

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

COLUMNS = ("chromosome", "start", "end")
_LARGEST = 2.0**53  # beyond this, numbers are no whole ones any more


def gene_positions(adata: AnnData, positions: pd.DataFrame | str | Path | None) -> tuple[pd.DataFrame, str]:
    """Return chromosome, start and end of the genes of an object (n_genes × 3, NaN where unknown), and their source."""
    import pandas as pd

    if positions is None and set(COLUMNS) <= set(adata.var.columns):
        table, source = adata.var[list(COLUMNS)], "var"
    elif positions is None:
        table, source = _ensembl(), "hgfind (human, hg38, Ensembl)"
    elif isinstance(positions, pd.DataFrame):
        table, source = positions, "table"
    else:
        table, source = _read(Path(positions)), Path(positions).name
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise KeyError(
            f"expected positions with the columns {', '.join(COLUMNS)}, indexed by gene, in {source}; found {list(table.columns)}"
        )
    table = table[list(COLUMNS)].dropna()
    table = table[~table.index.duplicated()]  # a gene on both sex chromosomes counts where it comes first
    chromosome = table["chromosome"].astype(str)
    chromosome = chromosome.where(chromosome.str.startswith("chr"), "chr" + chromosome).replace("chrMT", "chrM")
    start, end = numbers(table["start"]), numbers(table["end"])
    if start is None or end is None or not max(start.abs().max(), end.abs().max()) < _LARGEST:
        raise ValueError(f"expected numbers of bases in the columns start and end of {source}; found other values")
    table = pd.DataFrame({"chromosome": chromosome, "start": start, "end": end})
    matched = table.reindex(adata.var_names)
    if matched["chromosome"].notna().sum() == 0:
        raise ValueError(
            f"expected positions of the object's genes; found none in common ({source}: {', '.join(table.index[:3])}; "
            f"object: {', '.join(adata.var_names[:3])}); name genes the same way, or pass `positions=`"
        )
    return matched, source


def _read(path: Path) -> pd.DataFrame:
    """Positions from a GTF file, or from a table whose first column names the genes."""
    if not path.is_file():
        raise FileNotFoundError(f"expected a GTF file or a table of positions at {path}; found none")
    if re.search(r"\.gtf(\.gz)?$", path.name, re.IGNORECASE):
        return read_gtf(path)
    what = "positions of genes"
    text = read_text(path, what)
    sep = separator(text, "\t", len(COLUMNS) + 1)
    table: Any = parse_table(text, path, what, sep=sep, index_col=0, dtype={"chromosome": str})
    return table.set_axis(table.index.astype(str))


def _ensembl() -> pd.DataFrame:
    """Positions on hg38 of the human genes in the table that comes with hgfind, by name and by unambiguous synonym."""
    import pandas as pd

    table = ensembl_genes()
    # Names of families such as Y_RNA stand for hundreds of places, and some synonyms for several genes.
    genes = table.drop_duplicates(["gene", *COLUMNS]).drop_duplicates("gene", keep=False).set_index("gene")
    return pd.concat([genes, unambiguous_synonyms(table[table["gene"].isin(genes.index)], table)])[list(COLUMNS)]
