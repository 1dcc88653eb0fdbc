"""Cells of the grid of a section."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.core._validate import check_finite
from stpredict.slots._checks import check_obs
from stpredict.slots._keys import Key
from stpredict.tl.learn.inputs._reader import Reader, Source


class Cell(Reader):
    """`obs["grid_row"]` and `obs["grid_col"]`, as :func:`stpredict.pp.grid` writes them."""

    names = ("cell",)

    def read(self, source: Source) -> dict[str, Any]:
        """Row and column (n, 2) int64 of each observation; no two of a section share a cell."""
        for key in (Key.GRID_ROW, Key.GRID_COL):
            check_obs(source.adata, key, "run stp.pp.grid(adata)")
        cell = source.adata.obs[[Key.GRID_ROW, Key.GRID_COL]].to_numpy()[source.rows.index]
        check_finite(cell.astype(float), "grid cells of every observation", "run stp.pp.grid(adata) again")
        cell = cell.astype(np.int64)
        code = np.unique(source.rows.sample, return_inverse=True)[1]
        n_shared = len(cell) - len(np.unique(np.column_stack([code, cell]), axis=0))
        if n_shared:
            raise ValueError(
                f"expected one observation in each cell of a section's grid; found {n_shared} that share one; run "
                "stp.pp.grid(adata) again"
            )
        return {"cell": cell}
