"""A multilayer perceptron on image features."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._above_lowest import AboveLowest
from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._standardize import Standardize


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
    """Standardized features through hidden layers (GELU, dropout) to the regression head.

    Residuals stay above that of a rate of 0.
    """

    training_defaults = {"refit": True, "weight_decay": 1e-2}
    small = {"hidden": 64, "dropout": 0.0}

    def __init__(self, config: MLPConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.standardize = Standardize(shape.width("features"))
        widths = [shape.width("features")] + [config.hidden] * config.depth
        layers: list[nn.Module] = []
        for wide, narrow in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(wide, narrow), nn.GELU(), nn.Dropout(config.dropout)]
        self.body = nn.Sequential(*layers)
        self.head = RegressionHead(widths[-1], shape.n_outputs, heteroscedastic=config.heteroscedastic)
        self.above_lowest = AboveLowest(shape.n_outputs)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        hidden = self.body(self.standardize(batch["features"]))
        prediction: Prediction = self.head(hidden, self.target_mean, self.target_std)
        return replace(prediction, mean=self.above_lowest(prediction.mean))
