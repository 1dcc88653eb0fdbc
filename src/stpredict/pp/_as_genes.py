"""Say that the observations of a table are genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.slots._checks import check_unique
from stpredict.slots._container import begin
from stpredict.slots._keys import Key
from stpredict.slots._unit import check_chromosomes, say_genes

if TYPE_CHECKING:
    from stpredict.slots._container import Container


def as_genes(
    data: Container, *, chrom_key: str = Key.CHROM, copy: bool = False, table_key: str = Key.TABLE
) -> Container | None:
    """Say that every observation of a table is a gene, to be predicted from what is known of its DNA.

    Genes are compared with each other: networks train on them as on one section, folds hold out whole chromosomes, and
    scores are taken over genes. No patients, sections or positions are needed. :func:`stpredict.io.read_sequences` says so
    of the tables it makes; a table from elsewhere needs this call. The columns of `X` are then conditions, such as cell
    lines, and its values are taken as they stand.

    Parameters
    ----------
    data
        Table (n_genes, n_conditions) with one row per gene.
    chrom_key
        Column of `obs` with the chromosome; it is written to `obs["chrom"]`.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes `uns["stpredict"]["unit"]` and `obs["chrom"]`.

    Raises
    ------
    KeyError
        When there is no column `chrom_key`.
    ValueError
        When a gene is there twice, has no chromosome, or chromosomes are named in two styles.

    Examples
    --------
    >>> import anndata as ad, pandas as pd, stpredict as stp
    >>> genes = ad.AnnData(obs=pd.DataFrame({"chrom": ["chr1", "chr2"], "expr": [0.5, 2.0]}, index=["TP53", "MYC"]))
    >>> stp.pp.as_genes(genes)
    >>> genes.uns["stpredict"]["unit"]["is"]
    'gene'
    """
    container, adata = begin(data, copy, table_key)
    check_unique(adata.obs_names, "genes (obs_names)")
    check_chromosomes(adata, chrom_key)
    adata.obs[Key.CHROM] = adata.obs[chrom_key].astype(str)
    say_genes(adata)
    return container if copy else None
