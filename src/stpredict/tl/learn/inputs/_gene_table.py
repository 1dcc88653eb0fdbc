"""A table of what is known of genes."""

from __future__ import annotations

from typing import Any

from stpredict.core._validate import check_finite
from stpredict.slots._checks import check_genes
from stpredict.slots._matrix import single_precision
from stpredict.tl.learn.inputs._reader import Reader, Source


class GeneTable(Reader):
    """`varm[config.gene_table]` (n_vars, d): text, sequence or any other embedding of genes."""

    names = ("gene_table",)

    def read(self, source: Source) -> dict[str, Any]:
        """Rows (n_genes, d) float32 of the panel."""
        adata, key = source.adata, source.config.gene_table
        if key not in adata.varm:
            raise KeyError(
                f"expected a table of genes in varm[{key!r}]; found {sorted(adata.varm)}; put it there, or name another "
                "with hyperparameters={'gene_table': …}"
            )
        check_genes(adata, source.genes)
        table = single_precision(adata.varm[key], f"varm[{key!r}]")[adata.var_names.get_indexer(list(source.genes))]
        if table.ndim != 2:
            raise ValueError(f"expected a table (n_vars, d) in varm[{key!r}]; found {table.ndim} axes")
        check_finite(table, f"rows of varm[{key!r}] for the panel", "fill them, or leave these genes out")
        return {"gene_table": table}
