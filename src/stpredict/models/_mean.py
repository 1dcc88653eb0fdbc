"""The training mean of every gene: what knowing nothing about the tissue predicts."""

from __future__ import annotations

from dataclasses import dataclass

from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._registry import register


@dataclass(frozen=True)
class MeanConfig:
    """No hyperparameters."""


@register(
    "mean", config=MeanConfig, description="Training mean of each gene; its correlation is undefined by construction"
)
class Mean(Predictor):
    """Predict each gene's training mean, with its training standard deviation as spread."""

    needs = frozenset()
    closed_form = True

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        size = (len(batch), self.n_outputs)
        return Prediction(self.target_mean.expand(size), std=self.target_std.expand(size))
