"""Normalized dispersion of genes within sections, one section at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def section_dispersions(
    sections: Iterable[Any], genes: Sequence[str] | np.ndarray, n_top: int | None = None
) -> pd.DataFrame:
    """Dispersion of genes among those of the same level :cite:p:`satija2015`, mean over sections.

    That of :func:`scanpy.pp.highly_variable_genes` with sections as batches, which needs all of them at once.

    Parameters
    ----------
    sections
        Logarithms (n, G) of each section, dense or sparse, made when their turn comes.
    genes
        Their names (G,).
    n_top
        Number of genes to mark; all when `None`.

    Returns
    -------
    Table of G rows, in their order, with the columns `score`, NaN where it is not defined, and `highly_variable`: the genes that
    are among the first `n_top` of most sections, those of the higher score first.
    """
    import pandas as pd
    import scanpy as sc
    from anndata import AnnData

    n_top = len(genes) if n_top is None else min(n_top, len(genes))
    found = []
    for values in sections:
        table = AnnData(values, obs=pd.DataFrame(index=np.arange(values.shape[0]).astype(str)))
        table.var_names, table.obs["section"] = list(genes), pd.Categorical(["section"] * table.n_obs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # genes that were never seen
            part = sc.pp.highly_variable_genes(
                table, n_top_genes=n_top, flavor="seurat", batch_key="section", inplace=False
            )
        found.append(part[["dispersions_norm", "highly_variable_nbatches"]])
    joined = pd.concat(found)
    scores = joined.groupby(joined.index).agg({"dispersions_norm": "mean", "highly_variable_nbatches": "sum"})
    best = scores.sort_values(["highly_variable_nbatches", "dispersions_norm"], ascending=False, na_position="last")
    scores = scores.assign(highly_variable=scores.index.isin(best.index[:n_top]))
    return scores.loc[list(genes)].rename(columns={"dispersions_norm": "score"})[["score", "highly_variable"]]
