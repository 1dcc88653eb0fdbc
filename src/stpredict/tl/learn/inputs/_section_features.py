"""Features, positions and cells of all observations of a section, whichever of them are trained on."""

from __future__ import annotations

from typing import Any

from stpredict.tl.learn.inputs._cell import Cell
from stpredict.tl.learn.inputs._features import read_features
from stpredict.tl.learn.inputs._positions import Positions
from stpredict.tl.learn.inputs._reader import Reader, Source


class SectionFeatures(Reader):
    """Image features of whole sections; the rows of the source are all observations of these."""

    names = ("section_features",)

    def read(self, source: Source) -> dict[str, Any]:
        """Features (m, d) float32."""
        rows = source.rows
        return {"section_features": read_features(source.adata, source.slots, source.scaling, rows.index, rows.sample)}


class SectionPositions(Reader):
    """Positions of whole sections."""

    names = ("section_positions",)

    def read(self, source: Source) -> dict[str, Any]:
        """Positions (m, 2) float32 in µm."""
        return {"section_positions": Positions().read(source)["positions"]}


class SectionCell(Reader):
    """Cells of whole sections."""

    names = ("section_cell",)

    def read(self, source: Source) -> dict[str, Any]:
        """Row and column (m, 2) int64."""
        return {"section_cell": Cell().read(source)["cell"]}
