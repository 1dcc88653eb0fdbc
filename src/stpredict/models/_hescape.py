"""HESCAPE's pair: image features and expression, each behind an encoder of its own, in one space by contrast."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.core._validate import check_choice, check_positive
from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import HEAD
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._retrieval import RetrievalPredictor
from stpredict.models.base._shape import Shape
from stpredict.models.nn._standardize import Standardize

OBJECTIVES = ("clip", "siglip")
GENE_ENCODERS = ("mlp", "pca", "identity")
BATCHES = ("across", "within")
_IMAGE_HEADS = ("linear", "mlp")
_GENE_HEADS = (*_IMAGE_HEADS, "identity")
_LARGEST_SCALE = math.log(100)
_SMALLEST_BIAS = -10.0


@dataclass(frozen=True)
class HESCAPEConfig:
    """Hyperparameters of `hescape`.

    Attributes
    ----------
    objective
        `"clip"`: find the partner of each image and of each expression within the batch. `"siglip"`: tell for each pair of the
        batch by itself whether they are partners.
    gene_encoder
        `"mlp"`: the generic encoder, trained. `"pca"`: principal components of the training rows, fixed. `"identity"`: values
        as they are, for embeddings that another model has made.
    image_head, gene_head
        What maps features, and the output of the gene encoder, into the common space: `"linear"`, `"mlp"`, or for genes
        `"identity"` (only with `"mlp"` as encoder, whose outputs have the width of the space).
    batches
        What negatives are: the rows of any patient (`"across"`), or of one patient in each batch (`"within"`).
    n_embedding
        Width of the common space.
    depth
        Hidden layers of the generic gene encoder.
    n_components
        Principal components, fewer where there are fewer.
    gene_dropout, dropout
        Dropout of the generic gene encoder, and of heads that are no linear map.
    temperature
        What products of embeddings are divided by at the start; it is learned, and stays at .01 or above.
    k
        Training spots that a prediction of expression averages.
    weighting
        `"mean"`: all alike. `"similarity"`: softmax of the logits. `"inverse_distance"`: the inverse square.
    same_patient
        Whether to look up spots of the query's own patient as well, where these were in training.
    shrink
        Pull what is found towards the mean, gene by gene, by as much as held-out spots say.
    """

    objective: Literal["clip", "siglip"] = "clip"
    gene_encoder: Literal["mlp", "pca", "identity"] = "mlp"
    image_head: Literal["linear", "mlp"] = "linear"
    gene_head: Literal["linear", "mlp", "identity"] = "linear"
    batches: Literal["across", "within"] = "across"
    n_embedding: int = 128
    depth: int = 3
    n_components: int = 50
    gene_dropout: float = 0.1
    dropout: float = 0.2
    temperature: float = 0.07
    k: int = 50
    weighting: Literal["inverse_distance", "similarity", "mean"] = "mean"
    same_patient: bool = False
    shrink: bool = True


class GenericGeneEncoder(nn.Module):
    """Linear map to the width, `depth` times batch norm, ReLU, dropout and a linear layer, then batch norm and ReLU.

    Parameters
    ----------
    n_genes, width
        Width before and after.
    depth
        Number of hidden layers.
    dropout
        Dropout before each of them.
    """

    def __init__(self, n_genes: int, width: int, depth: int = 3, dropout: float = 0.1) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {"input": nn.Linear(n_genes, width)}
        for number in range(depth):
            layers[f"batchnorm_{number}"] = nn.BatchNorm1d(width)
            layers[f"relu_{number}"] = nn.ReLU()
            layers[f"dropout_{number}"] = nn.Dropout(dropout)
            layers[f"linear_{number}"] = nn.Linear(width, width)
        layers |= {"batchnorm_out": nn.BatchNorm1d(width), "relu_out": nn.ReLU()}
        self.nn = nn.Sequential()
        for name, layer in layers.items():
            self.nn.add_module(name, layer)
        self.n_outputs = width

    def forward(self, values: Tensor) -> Tensor:
        """Encode (n, n_genes) to (n, width)."""
        if self.training and len(values) == 1:  # batch norm needs more than one value
            return self.nn(torch.cat([values, values]))[:1]
        return self.nn(values)


class PrincipalComponents(nn.Module):
    """Whitened principal components of the training rows; nothing of it is trained.

    Parameters
    ----------
    n_genes, n_components
        Width before, and after where there are as many genes.
    """

    components: Tensor

    def __init__(self, n_genes: int, n_components: int) -> None:
        super().__init__()
        self.n_outputs = min(n_genes, n_components)
        self.register_buffer("components", torch.zeros(n_genes, self.n_outputs))

    def take(self, values: Tensor) -> None:
        """Find the components of rows (n, n_genes) whose columns have mean 0; those beyond their rank are 0."""
        # A few more directions than are kept, and several passes: the leading ones are then exact to single precision.
        more = min(self.n_outputs + 10, *values.shape)
        _, size, axes = torch.svd_lowrank(values, q=more, niter=6)
        n = min(self.n_outputs, more)
        size = size[:n] / math.sqrt(len(values))
        told = size > 1e-5 * size.max().clamp_min(1e-30)
        self.components.zero_()
        self.components[:, :n] = axes[:, :n] * torch.where(told, 1 / size.clamp_min(1e-30), torch.zeros_like(size))

    def forward(self, values: Tensor) -> Tensor:
        """Project (n, n_genes) to (n, n_outputs)."""
        return values @ self.components


class Identity(nn.Module):
    """Values as they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_outputs = width

    def forward(self, values: Tensor) -> Tensor:
        """Return (n, width) unchanged."""
        return values


class Side(nn.Module):
    """An encoder and its head: `trunk` and `head`.

    Parameters
    ----------
    trunk
        Encoder with `n_outputs`.
    head
        `"linear"`, `"mlp"` or `"identity"`.
    width
        Width of the common space.
    dropout
        Dropout of the head `"mlp"`.
    """

    def __init__(self, trunk: Any, head: str, width: int, dropout: float) -> None:
        super().__init__()
        self.trunk = trunk
        n = trunk.n_outputs
        if head == "identity":
            if n != width:
                raise ValueError(
                    f"expected an encoder of {width} numbers for gene_head='identity'; found one of {n}; take 'linear'"
                )
            self.head: nn.Module = nn.Identity()
        elif head == "linear":
            self.head = nn.Linear(n, width)
        else:
            self.head = nn.Sequential(
                nn.Linear(n, 2 * width),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(2 * width, width),
                nn.LayerNorm(width),
            )

    def forward(self, values: Tensor) -> Tensor:
        """Map values to the common space."""
        return self.head(self.trunk(values))


@register(
    "hescape",
    config=HESCAPEConfig,
    description="Contrastive alignment of image features and expression; the mean of the nearest training spots",
    paper="gindra2025",
    license_of_reference="MIT",
)
class HESCAPE(RetrievalPredictor):
    """Standardized image features behind a head, and standardized expression behind an encoder and a head.

    Embeddings have length 1, in the loss as in retrieval, and products of them are multiplied by a learned scale of at most
    100. What is compared with the image may be any values of an observation, such as the embedding of its expression by
    another model.
    """

    compares_values = True
    unit_length = True
    own_tensors = (*HEAD, "bank.", "key_length", "gexp_encoder.", "shrinkage.")
    training_defaults = {
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 1e-2,
        "batch_size": 256,
        "max_epochs": 100,
        "patience": 10,
        "gradient_clip": 5.0,
    }
    # Of 20,000 to 40,000 steps, the first 782 of which warm up: epochs here, without a warm-up.
    paper = Preset(
        {},
        {"learning_rate": 1e-5, "batch_size": 64, "schedule": "cosine", "patience": 5, "min_delta": 0.01},
    )
    small = {"n_embedding": 32, "depth": 1, "k": 3, "gene_dropout": 0.0, "dropout": 0.0}

    def __init__(self, config: HESCAPEConfig, shape: Shape) -> None:
        for name, choices in (
            ("objective", OBJECTIVES),
            ("gene_encoder", GENE_ENCODERS),
            ("image_head", _IMAGE_HEADS),
            ("gene_head", _GENE_HEADS),
            ("batches", BATCHES),
        ):
            check_choice(getattr(config, name), choices, name)
        check_positive(config.n_components, "n_components")
        super().__init__(config, shape)
        if config.batches == "within":
            self.draws = "patient_rows"
        width, n = config.n_embedding, shape.n_outputs
        trunks = {
            "mlp": lambda: GenericGeneEncoder(n, width, config.depth, config.gene_dropout),
            "pca": lambda: PrincipalComponents(n, config.n_components),
            "identity": lambda: Identity(n),
        }
        self.gexp_encoder = Side(trunks[config.gene_encoder](), config.gene_head, width, config.dropout)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)).clamp(0, _LARGEST_SCALE))
        if config.objective == "siglip":
            self.logit_bias = nn.Parameter(torch.tensor(_SMALLEST_BIAS))

    @classmethod
    def reads(cls, config: Any) -> frozenset[str]:
        """Image features."""
        return frozenset({"features"})

    @property
    def temperature(self) -> Tensor:
        """Inverse of the learned scale."""
        return (-self.logit_scale.clamp(0, _LARGEST_SCALE)).exp()

    def make_image_side(self, shape: Shape) -> None:
        """Standardize features, and map them into the common space."""
        width = shape.width("features")
        self.standardize = Standardize(width)
        config = self.config
        self.image_encoder = Side(Identity(width), config.image_head, config.n_embedding, config.dropout)

    def embed_images(self, batch: Batch) -> Tensor:
        """Embed the image features of each spot: (n, n_embedding), of length 1."""
        return F.normalize(self.image_encoder(self.standardize(batch["features"])), dim=1)

    def embed_expression(self, batch: Batch, expression: Tensor) -> Tensor:
        """Embed the expression (n, n_genes) of each spot on its own."""
        return self.gexp_encoder(expression)

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Contrast the partners of the batch with all other pairs of it."""
        if self.training:
            self._hold_scale()
        if self.config.objective == "clip":
            return super().loss(prediction, batch)
        image, spot = prediction.extras["image"].float(), prediction.extras["spot"].float()
        sign = 2 * torch.eye(len(image), device=image.device) - 1
        return {"total": -F.logsigmoid(sign * (self.logits(spot, image) + self.logit_bias)).sum(dim=1).mean()}

    def remember(self, batches: Iterable[Batch]) -> None:
        """Find the principal components of the training rows."""
        trunk = self.gexp_encoder.trunk
        if isinstance(trunk, PrincipalComponents):
            parts = [batch.outputs() for batch in batches]
            trunk.take(torch.cat([(part - self.target_mean) / self.target_std for part in parts if part is not None]))

    def finish(self, batches: Iterable[Batch]) -> None:
        """Fill the bank with the training spots."""
        self._hold_scale()
        super().finish(batches)

    @torch.no_grad()
    def _hold_scale(self) -> None:
        self.logit_scale.clamp_(0, _LARGEST_SCALE)
