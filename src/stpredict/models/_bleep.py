"""BLEEP: the image of a spot and its expression in one space; a prediction is the mean of the nearest training spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stpredict.models.base._batch import Batch
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._retrieval import ProjectionHead, RetrievalPredictor
from stpredict.models.base._shape import Shape


@dataclass(frozen=True)
class BLEEPConfig:
    """Hyperparameters of `bleep`.

    Attributes
    ----------
    image_encoder
        `"resnet50"` or `"densenet121"` on patches, end to end, or `"features"`: image features as they are.
    weights
        File with torchvision's ImageNet weights of the image encoder; `None` starts from random weights.
    patch_um
        Side of the patch in µm.
    patch_px
        Side of the patch in pixels after resampling.
    symmetries
        Draw one of the eight right-angle rotations and reflections for each patch in training.
    stain_jitter
        Largest relative change of the optical density of each stain in training.
    chunk
        Patches per step of the image encoder; where a batch has more, training computes activations twice instead of
        keeping them.
    n_embedding
        Width of the common space.
    dropout
        Dropout of the projection heads.
    temperature
        What products of embeddings are divided by in the loss, and in the weights by similarity. `None` is 0.1 for
        embeddings of length 1, and the published 1 for embeddings as they are.
    k
        Training spots that a prediction averages.
    weighting
        `"mean"`: all alike. `"similarity"`: softmax of the logits. `"inverse_distance"`: the inverse square.
    normalize
        Embeddings of length 1: one metric in loss, retrieval and weights. `False` has three, as published.
    same_patient
        Whether to look up spots of the query's own patient as well, where these were in training.
    shrink
        Pull what is found towards the mean, gene by gene, by as much as held-out spots say: an average of few spots holds
        their counting noise. `False` returns the average, as published.
    """

    image_encoder: Literal["resnet50", "densenet121", "features"] = "resnet50"
    weights: str | None = None
    patch_um: float = 112.0
    patch_px: int = 224
    symmetries: bool = True
    stain_jitter: float = 0.05
    chunk: int = 64
    n_embedding: int = 256
    dropout: float = 0.1
    temperature: float | None = None
    k: int = 50
    weighting: Literal["inverse_distance", "similarity", "mean"] = "mean"
    normalize: bool = True
    same_patient: bool = False
    shrink: bool = True


@register(
    "bleep",
    config=BLEEPConfig,
    description="Contrastive embedding of images and expression; the mean of the nearest training spots",
    paper="xie2023",
    license_of_reference="Apache-2.0",
)
class BLEEP(RetrievalPredictor):
    """Image encoder and projection head against a projection head on expression, with targets as soft as the batch."""

    soft_targets = True
    training_defaults = {
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 1e-3,
        "batch_size": 256,
        "max_epochs": 100,
        "patience": 10,
    }
    paper = Preset(
        {"normalize": False, "shrink": False, "stain_jitter": 0.0},
        {"max_epochs": 4, "patience": 4, "gradient_clip": 0.0},
    )
    small = {"image_encoder": "features", "k": 3, "dropout": 0.0}

    def __init__(self, config: BLEEPConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.spot_projection = ProjectionHead(shape.n_outputs, config.n_embedding, config.dropout)

    def embed_expression(self, batch: Batch, expression: Tensor) -> Tensor:
        """Project the expression (n, n_genes) of each spot on its own."""
        return self.spot_projection(expression)
