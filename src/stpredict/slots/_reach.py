"""How far the picture around an observation reaches into its features, and how far observations are apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._checks import check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of
from stpredict.slots._provenance import read_record, records
from stpredict.slots._sections import microns_per_pixel

if TYPE_CHECKING:
    from anndata import AnnData

#: A tile is a whole number of pixels and is resampled, so that it reads a little more than its size says.
MARGIN = 1.1


def field_of_view(adata: AnnData, slots: Iterable[str]) -> float | None:
    """Side in µm of the largest square that a row of some slots of image features was computed from.

    `None` where the record of one of them does not say.
    """
    sides = []
    for slot in slots:
        record = read_record(adata, slot) or {}
        if record.get("tile_um") is None:
            return None
        sides.append(float(record["tile_um"]) * max(map(float, record.get("context", [1.0]))))
    return max(sides, default=0.0)


def recorded_features(adata: AnnData) -> list[str]:
    """Slots of image features of the observations that have a record."""
    return [key for key in records(adata) if key.startswith("X_") and key in adata.obsm]


def section_um(adata: AnnData, rows: np.ndarray, name: str) -> np.ndarray:
    """Positions (n, 2) in µm of rows of one section."""
    check_obsm(adata, Key.SPATIAL, "give the positions of the observations, in pixels of the full-resolution image")
    return positions_of(adata)[rows] * microns_per_pixel(adata, name)
