"""Positions in µm."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.io._image import microns_per_pixel
from stpredict.slots._keys import Key
from stpredict.slots._matrix import single_precision
from stpredict.slots._positions import positions_of
from stpredict.slots._rows import Rows
from stpredict.tl.learn.inputs._reader import Reader, Source


class Positions(Reader):
    """`obsm["spatial"]` times the µm per pixel of each section."""

    names = ("positions",)

    def read(self, source: Source) -> dict[str, Any]:
        """Positions (n, 2) float32 in µm."""
        positions = positions_um(source, source.rows)
        if positions is None:
            raise ValueError(
                "expected positions in µm; found no obsm['spatial'], or a section whose µm/px is not known; set "
                "uns['spatial'][sample]['scalefactors']['microns_per_pixel'], or read the data with stp.io"
            )
        return {"positions": positions}


def positions_um(source: Source, rows: Rows) -> np.ndarray | None:
    """Positions (n, 2) in µm; `None` where there are none or a section's µm/px is unknown."""
    if Key.SPATIAL not in source.adata.obsm:
        return None
    positions = positions_of(source.adata)[rows.index]
    for name in rows.sections:
        try:
            positions[rows.sample == name] *= microns_per_pixel(source.adata, name)
        except ValueError:
            return None
    return single_precision(positions, "positions in µm")
