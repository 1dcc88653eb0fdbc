"""Scores that depth has no part in, and predictions on the scale of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict import metrics as m
from stpredict.core._moments import columnwise
from stpredict.slots._depth import depth_of
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record
from stpredict.slots._scale import RATE, Origin, Scale, known, panel_counts, scale_of, unit_in

if TYPE_CHECKING:
    from anndata import AnnData

#: Scores of this module, and those that the ceiling adds.
DEPTH_FREE = ("pearson_residual", "deviance_explained")
CEILINGS = ("residual_ceiling", "deviance_ceiling")
_THETA = 100.0  # of the residuals that any prediction is compared with; their own where the target are residuals


class Counted:
    """The counts of some rows of a section, against which predictions of any unit are scored; values have none."""

    def __init__(
        self, adata: AnnData, rows: np.ndarray, genes: Sequence[str], sample: str, *, of_genes: bool = True
    ) -> None:
        self.scale: Scale | None = None
        self.rows, self.n_genes = rows, len(genes)
        depth = depth_of(adata) if of_genes and Key.COUNTS in adata.layers else None
        if depth is None:
            return
        self.deep = np.nan_to_num(depth[rows]) > 0
        if not self.deep.any():
            return
        deep = rows[self.deep]
        self.counts = panel_counts(adata, deep, genes)
        self.scale = scale_of(adata, self.counts, depth[deep], sample)
        self._residuals: dict[float, np.ndarray] = {}

    def rates(self, predicted: np.ndarray, unit: Mapping[str, Any], origin: Origin) -> np.ndarray:
        """Rates (n, n_genes) of a prediction; NaN where its unit says nothing of rates."""
        return origin.rates(predicted, self.rows, unit, self.scale)

    def scores(self, rates: np.ndarray, names: Sequence[str], theta: float) -> dict[str, np.ndarray]:
        """Scores (n_genes,) by name of predicted rates (n, n_genes); NaN without counts to compare with."""
        if self.scale is None:
            return {name: np.full(self.n_genes, np.nan) for name in names}
        rates = rates if self.deep.all() else rates[self.deep]
        found: dict[str, np.ndarray] = {}
        if "deviance_explained" in names:
            found["deviance_explained"] = m.deviance_explained(self.counts, rates, self.scale.depth)
        if "pearson_residual" in names:
            found["pearson_residual"] = m.pearson(self.residuals(theta), rates)
        return {name: found[name] for name in names}

    def residuals(self, theta: float) -> np.ndarray:
        """Pearson residuals of the counts (n, n_genes), genes one after the other; made once for all predictions."""
        assert self.scale is not None
        if theta not in self._residuals:
            proportions = np.nan_to_num(self.scale.proportions)
            found = m.pearson_residuals(
                np.nan_to_num(self.counts), self.scale.depth, theta=theta, proportions=proportions
            )
            self._residuals[theta] = columnwise(found)
        return self._residuals[theta]

    def ceilings(self, names: Sequence[str], theta: float) -> dict[str, np.ndarray]:
        """The best that these scores (n_genes,) can be, by the counts alone."""
        wanted = [ceiling for name, ceiling in zip(DEPTH_FREE, CEILINGS, strict=True) if name in names]
        if self.scale is None:
            return {name: np.full(self.n_genes, np.nan) for name in wanted}
        counts = np.nan_to_num(self.counts)
        found = {
            "residual_ceiling": lambda: m.residual_ceiling(counts, self.scale.depth, theta=theta),
            "deviance_ceiling": lambda: m.deviance_ceiling(counts, self.scale.depth),
        }
        return {name: found[name]() for name in wanted}


def on_scale(
    predicted: np.ndarray, unit: Mapping[str, Any], truth: Mapping[str, Any], scale: Scale | None
) -> np.ndarray:
    """A prediction of rates on the scale of the truth; any other is in that unit, or is said by the user to be."""
    if unit.get("method") != RATE or truth.get("method") in (RATE, "layer"):
        return predicted
    if scale is None or not known(truth):
        return np.full(predicted.shape, np.nan)
    return scale.of_rates(predicted, truth)


def residual_theta(adata: AnnData) -> float:
    """Inverse dispersion of the residuals that predictions are compared with."""
    return float(unit_in(read_record(adata, "normalize")).get("theta", _THETA))
