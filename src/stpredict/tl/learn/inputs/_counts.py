"""Raw counts of the panel."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.slots._checks import check_layer
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix, single_precision
from stpredict.slots._provenance import read_record
from stpredict.tl.learn.inputs._reader import Reader, Source


class Counts(Reader):
    """`layers["counts"]` and the size factors by which the target was normalized."""

    names = ("counts", "size_factor")

    def read(self, source: Source) -> dict[str, Any]:
        """Counts (n, n_genes) and total counts over their median (n,), both float32; nothing at prediction."""
        if not len(source.genes):
            return {}
        adata = source.adata
        check_layer(adata, Key.COUNTS, "run stp.pp.normalize(adata), or fit without the likelihood of counts (zinb=0)")
        matrix = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")[source.rows.index]
        panel = (read_record(adata, "normalize") or {}).get("panel")
        totals = matrix if panel is None else matrix[:, adata.var_names.get_indexer(panel)]
        depth = np.asarray(totals.sum(axis=1), dtype=np.float64).ravel()
        chosen = matrix[:, adata.var_names.get_indexer(source.genes)]
        counts = single_precision(chosen, f"counts in layers[{Key.COUNTS!r}]")
        return {"counts": counts, "size_factor": (depth / max(float(np.median(depth)), 1.0)).astype(np.float32)}
