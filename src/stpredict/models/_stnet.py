"""ST-Net: DenseNet-121 on image patches, end to end."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._augment import standardized, symmetry
from stpredict.models.nn._densenet import DenseNet121
from stpredict.models.nn._heads import RegressionHead


@dataclass(frozen=True)
class STNetConfig:
    """Hyperparameters of `stnet`.

    Attributes
    ----------
    weights
        File with torchvision's ImageNet weights of DenseNet-121; `None` starts from random weights.
    symmetries
        Average over the eight right-angle rotations and reflections at prediction, and draw one of them in training.
    patch_um
        Side of the patch in µm.
    patch_px
        Side of the patch in pixels after resampling.
    heteroscedastic
        Predict a standard deviation beside the mean.
    """

    weights: str | None = None
    symmetries: bool = True
    patch_um: float = 150.0
    patch_px: int = 224
    heteroscedastic: bool = False


@register(
    "stnet",
    config=STNetConfig,
    description="DenseNet-121 on patches, end to end, averaged over eight symmetries",
    paper="he2020",
    license_of_reference="none",
)
class STNet(Predictor):
    """DenseNet-121 and a linear map that starts at the training mean of each gene."""

    needs = frozenset({"patches"})
    training_defaults = {
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "batch_size": 32,
        "max_epochs": 50,
        "patience": 8,
    }
    #: The published 1e-6 belongs to a sum over the 32 patches of a step.
    paper = Preset(
        training={
            "learning_rate": 3.2e-5,
            "patience": 50,
            "validation_fraction": 0.25,
            "refit": True,
            "gradient_clip": 0.0,
        }
    )
    small = {"patch_px": 32, "symmetries": False}

    def __init__(self, config: STNetConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.body = DenseNet121()
        self.head = RegressionHead(self.body.n_outputs, shape.n_outputs, heteroscedastic=config.heteroscedastic)

    def load_initial_weights(self) -> None:
        """Start the convolutions from `config.weights`."""
        if self.config.weights is not None:
            self.body.load_imagenet(self.config.weights)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        images = standardized(batch["patches"])
        if self.training:
            if self.config.symmetries:
                images = symmetry(images, int(torch.randint(8, ())))
            return self.head(self.body(images), self.target_mean, self.target_std)
        views = range(8) if self.config.symmetries else range(1)
        predictions = [self.head(self.body(symmetry(images, v)), self.target_mean, self.target_std) for v in views]
        mean = torch.stack([p.mean for p in predictions]).mean(dim=0)
        spreads = [p.std.square() for p in predictions if p.std is not None]
        return Prediction(mean, std=torch.stack(spreads).mean(dim=0).sqrt() if spreads else None)
