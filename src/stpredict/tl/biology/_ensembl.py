"""The table of human genes that comes with hgfind: their positions, and the names that they had before."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_BIOMART = {
    "Gene name": "gene",
    "Gene Synonym": "synonym",
    "Chromosome/scaffold name": "chromosome",
    "Gene start (bp)": "start",
    "Gene end (bp)": "end",
}
_CHROMOSOMES = [*map(str, range(1, 23)), "X", "Y", "MT"]


def ensembl_genes() -> pd.DataFrame:
    """Genes on the chromosomes of hg38, one row per gene, place and synonym: `gene`, `synonym`, `chromosome`, `start`, `end`.

    Raises
    ------
    ImportError
        When hgfind is not installed (extra `cnv`).
    """
    import pandas as pd

    package = find_spec("hgfind")
    if package is None or package.origin is None:
        raise ImportError("this needs hgfind; install it with: pip install 'stpredict-histology[cnv]'")
    # The file is read where it lies: the functions of the package give one gene at a time.
    path = Path(package.origin).with_name("biomart-gene-coordinates.txt")
    table = pd.read_csv(
        path, sep="\t", usecols=list(_BIOMART), dtype={"Chromosome/scaffold name": str}, keep_default_na=False
    ).rename(columns=_BIOMART)
    return table[table["chromosome"].isin(_CHROMOSOMES) & (table["gene"] != "")]


def unambiguous_synonyms(table: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table by their synonym: those that are no name of a gene, and a synonym of one gene only."""
    other = table[(table["synonym"] != "") & ~table["synonym"].isin(genes["gene"])]
    return other.drop_duplicates(["gene", "synonym"]).drop_duplicates("synonym", keep=False).set_index("synonym")


def ensembl_aliases() -> dict[str, str]:
    """The present symbol of each synonym that stands for one gene only."""
    table = ensembl_genes()
    return {str(old): str(new) for old, new in unambiguous_synonyms(table, table)["gene"].items()}
