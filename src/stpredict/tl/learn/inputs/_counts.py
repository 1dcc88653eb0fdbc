"""Raw counts of the panel."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.core._file_rows import FileTable, rows_in_file
from stpredict.core._validate import check_finite
from stpredict.slots._checks import check_layer
from stpredict.slots._depth import total_counts
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
        adata, index = source.adata, source.rows.index
        check_layer(adata, Key.COUNTS, "run stp.pp.normalize(adata), or fit without the likelihood of counts (zinb=0)")
        what = f"layers[{Key.COUNTS!r}]"
        whole: Any = numeric_matrix(adata.layers[Key.COUNTS], what)
        panel = (read_record(adata, "normalize") or {}).get("panel")
        counted = None if panel is None else adata.var_names.get_indexer(panel)
        columns = adata.var_names.get_indexer(source.genes)
        if (on_disk := rows_in_file(whole)) is not None:
            counts: Any = FileTable([on_disk], index, columns)
            check_finite(counts, f"counts in {what}", "drop these observations, or fill them")
            depth = total_counts(FileTable([on_disk], index, counted))
        else:
            matrix = whole[index]
            counts = single_precision(matrix[:, columns], f"counts in {what}")
            depth = total_counts(matrix if counted is None else matrix[:, counted])
        return {"counts": counts, "size_factor": (depth / max(float(np.median(depth)), 1.0)).astype(np.float32)}
