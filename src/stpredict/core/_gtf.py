"""Genes of a GTF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.core._files import damage_named

if TYPE_CHECKING:
    import pandas as pd

_LINES = 200_000  # of a file at once; it has millions, of which few are genes
_COLUMNS = {0: "chromosome", 2: "feature", 3: "start", 4: "end", 6: "strand", 8: "attributes"}


def read_gtf(path: str | Path) -> pd.DataFrame:
    """Read the genes of a GTF file, plain or gzipped: chromosome, start, end, strand and gene_id, indexed by gene name.

    Start and end are counted from 1, and both are part of the gene. Genes without a name go by their identifier.
    """
    import pandas as pd

    with damage_named(Path(path), "a GTF file with nine columns"):
        lines = pd.read_csv(
            path, sep="\t", comment="#", header=None, usecols=list(_COLUMNS), quoting=3, chunksize=_LINES,
            dtype={0: str, 2: str, 6: str, 8: str},
        )  # fmt: skip
        parts = [part.rename(columns=_COLUMNS).query("feature == 'gene'") for part in lines]
    genes = pd.concat(parts) if parts else pd.DataFrame(columns=list(_COLUMNS.values()))
    if genes.empty:
        raise ValueError(f"expected lines of the feature 'gene' in {Path(path).name}; found none")
    name, number = (
        genes["attributes"].str.extract(rf'\b{key} "([^"]*)"', expand=False) for key in ("gene_name", "gene_id")
    )
    found = genes[["chromosome", "start", "end", "strand"]].assign(gene_id=number)
    return found.set_axis(pd.Index(name.fillna(number), name="gene")).pipe(lambda t: t[t.index.notna()])
