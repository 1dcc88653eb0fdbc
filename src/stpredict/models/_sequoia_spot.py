"""SEQUOIA without its aggregation: the layers of `sequoia` on the features of one spot."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, nn

from stpredict.models._sequoia import SequoiaLayer
from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.base._shrinking import ShrinkingPredictor
from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._standardize import Standardize


@dataclass(frozen=True)
class SequoiaSpotConfig:
    """Hyperparameters of `sequoia_spot`.

    Attributes
    ----------
    depth
        Number of layers.
    heads
        Heads of each layer.
    d_head
        Width of each head.
    shrink
        Pull predictions of expression towards the training mean, gene by gene, by as much as held-out observations say.
    """

    depth: int = 6
    heads: int = 16
    d_head: int = 64
    shrink: bool = True


@register(
    "sequoia_spot",
    config=SequoiaSpotConfig,
    description="SEQUOIA without aggregation: its layers on the features of one spot",
    paper="pizurica2024",
    license_of_reference="MIT",
)
class SequoiaSpot(ShrinkingPredictor):
    """The layers of `sequoia` on a bag that holds the spot alone, whose summary is the spot itself."""

    training_defaults = {"learning_rate": 3e-4, "weight_decay": 1e-2, "refit": True}
    small = {"depth": 2, "heads": 2, "d_head": 16}

    config: SequoiaSpotConfig

    def __init__(self, config: SequoiaSpotConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        width = shape.width("features")
        self.standardize = Standardize(width)
        self.layers = nn.ModuleList(SequoiaLayer(width, config.heads, config.d_head) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = RegressionHead(width, shape.n_outputs)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch of spots."""
        tokens = self.standardize(batch["features"]).unsqueeze(1)
        alone = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        for layer in self.layers:
            tokens = layer(tokens, alone)
        return self.head(self.norm(tokens.squeeze(1)), self.target_mean, self.target_std)

    def predict(self, batch: Batch, *, n_samples: int = 0, generator: Generator | None = None) -> Prediction:
        """Predict a batch, as sure as held-out observations allow."""
        return self.shrunk(self(batch))
