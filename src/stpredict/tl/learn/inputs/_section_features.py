"""Features, positions and cells of all observations of a section, whichever of them are trained on."""

from __future__ import annotations

from typing import Any

from stpredict.core._standardized import standardized
from stpredict.tl.learn.inputs._cell import Cell
from stpredict.tl.learn.inputs._features import features_of
from stpredict.tl.learn.inputs._positions import Positions
from stpredict.tl.learn.inputs._reader import Reader, Source


class SectionFeatures(Reader):
    """Image features of whole sections; the rows of the source are all observations of these."""

    names = ("section_features",)

    def read(self, source: Source) -> dict[str, Any]:
        """Features (m, d) float32, in the units of those of the rows that are read beside them; in files they stay there."""
        rows = source.rows
        features = features_of(source.adata, source.slots, "global", rows.index, rows.sample)
        if source.scaling == "section":
            features = standardized(features, rows.sample, rows.measured)
        return {"section_features": features}


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
