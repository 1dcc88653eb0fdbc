"""A multilayer perceptron on image features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._registry import register
from stpredict.models.nn._heads import RegressionHead


@dataclass(frozen=True)
class MLPConfig:
    """Hyperparameters of `mlp`.

    Attributes
    ----------
    hidden
        Width of each hidden layer.
    depth
        Number of hidden layers.
    dropout
        Dropout after each hidden layer.
    heteroscedastic
        Predict a standard deviation beside the mean.
    """

    hidden: int = 256
    depth: int = 1
    dropout: float = 0.3
    heteroscedastic: bool = False


@register("mlp", config=MLPConfig, description="Multilayer perceptron on image features")
class MLP(Predictor):
    """Standardized features through hidden layers (GELU, dropout) to the regression head."""

    training_defaults = {"refit": True, "weight_decay": 1e-2}

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: MLPConfig, n_genes: int, n_features: int = 0) -> None:
        super().__init__(config, n_genes, n_features)
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_std", torch.ones(n_features))
        widths = [n_features] + [config.hidden] * config.depth
        layers: list[nn.Module] = []
        for wide, narrow in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(wide, narrow), nn.GELU(), nn.Dropout(config.dropout)]
        self.body = nn.Sequential(*layers)
        self.head = RegressionHead(widths[-1], n_genes, heteroscedastic=config.heteroscedastic)

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set before training."""
        super().prepare(summary)
        assert summary.feature_mean is not None
        assert summary.feature_std is not None
        self.feature_mean.copy_(summary.feature_mean)
        self.feature_std.copy_(summary.feature_std)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        assert batch.features is not None
        hidden = self.body((batch.features - self.feature_mean) / self.feature_std)
        return self.head(hidden, self.target_mean, self.target_std)
