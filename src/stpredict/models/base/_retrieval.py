"""What networks share that place images and expression in one space, and predict by looking up training spots there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from stpredict.core._validate import check_choice, check_positive
from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import HEAD, Predictor
from stpredict.models.base._shape import Shape
from stpredict.models.nn._augment import augmented, check_patches, standardized
from stpredict.models.nn._bank import Bank
from stpredict.models.nn._densenet import DenseNet121
from stpredict.models.nn._resnet import ResNet50
from stpredict.models.nn._standardize import Standardize

#: DenseNet as mclSTExp takes it, without the ReLU that stands in front of its classifier.
_BODIES: dict[str, Callable[[], DenseNet121 | ResNet50]] = {
    "densenet121": partial(DenseNet121, rectified=False),
    "resnet50": ResNet50,
}
IMAGE_ENCODERS = (*_BODIES, "features")
WEIGHTINGS = ("inverse_distance", "similarity", "mean")
_HELD = 1 << 25  # numbers of retrieved spots that are held at once
_SMALLEST = 1e-12  # square of a distance: spots that are the query itself share its weight
_TEMPERATURE = {True: 0.1, False: 1.0}  # of embeddings of length 1, and of those as they are


class ProjectionHead(nn.Module):
    """Linear map into the common space, a residual layer (GELU, linear, dropout) and layer norm.

    Parameters
    ----------
    n_inputs, n_outputs
        Width before and after.
    dropout
        Dropout of the residual layer.
    """

    def __init__(self, n_inputs: int, n_outputs: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Linear(n_inputs, n_outputs)
        self.fc = nn.Linear(n_outputs, n_outputs)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(n_outputs)

    def forward(self, values: Tensor) -> Tensor:
        """Project (n, n_inputs) to (n, n_outputs)."""
        projected = self.projection(values)
        return self.layer_norm(projected + self.dropout(self.fc(F.gelu(projected))))


class RetrievalPredictor(Predictor):
    """Base of networks that predict the weighted mean expression of the training spots nearest to an image.

    Training draws the embeddings of the image and of the expression of a spot together and those of different spots of
    a batch apart. After it the embeddings of the expression of all training spots become the keys of a bank; a
    prediction looks up those nearest to the embedding of the image, by default among other patients only.

    A subclass defines `embed_expression`; the names of what that reads begin with `spot_`. Its configuration has
    `image_encoder`, `weights`, `patch_um`, `patch_px`, `symmetries`, `stain_jitter`, `chunk`, `n_embedding`, `dropout`,
    `temperature`, `k`, `weighting`, `normalize` and `same_patient`.

    - With `normalize=True` embeddings have length 1, and one metric serves in the logits of the loss, in retrieval and
      in the weights. With `False` there are three, as published: the logits are products of embeddings as they are,
      retrieval goes by their cosine, and weights by inverse distance use the sum of absolute differences.
    - Until the bank is filled, the prediction of a batch with a target is the training mean.

    Parameters
    ----------
    config
        The network's frozen dataclass of hyperparameters.
    shape
        Number of outputs, widths of the inputs, and genes.
    """

    needs = frozenset({"patches"})
    monitors = ("loss",)
    only_expression = True
    own_tensors = (*HEAD, "bank.", "key_length", "spot_")
    #: Whether spots may be drawn to others of the batch that resemble them, instead of to their own image alone.
    soft_targets: ClassVar[bool] = False
    #: Tensors of :class:`Batch`, besides the target, that the bank is made of.
    bank_reads: ClassVar[frozenset[str]] = frozenset()

    key_length: Tensor

    def __init__(self, config: Any, shape: Shape) -> None:
        check_choice(config.weighting, WEIGHTINGS, "weighting")
        for name in ("k", "n_embedding"):
            check_positive(getattr(config, name), name)
        if config.temperature is not None:
            check_positive(config.temperature, "temperature")
        super().__init__(config, shape)
        self.body: DenseNet121 | ResNet50 | None = None
        self.make_image_side(shape)
        self.bank = Bank(config.n_embedding, shape.n_outputs)
        self.register_buffer("key_length", torch.zeros(0))

    @property
    def unit_length(self) -> bool:
        """Whether embeddings have length 1."""
        return bool(self.config.normalize)

    @property
    def temperature(self) -> float | Tensor:
        """What products of embeddings are divided by."""
        given = self.config.temperature
        return _TEMPERATURE[self.unit_length] if given is None else given

    def make_image_side(self, shape: Shape) -> None:
        """Build what `embed_images` needs: an image encoder, or a layer that standardizes features, and a projection head."""
        config = self.config
        check_choice(config.image_encoder, IMAGE_ENCODERS, "image_encoder")
        check_positive(config.chunk, "chunk")
        if config.image_encoder == "features":
            width = shape.width("features")
            self.standardize = Standardize(width)
        else:
            self.body = _BODIES[config.image_encoder]()
            width = self.body.n_outputs
        self.image_projection = ProjectionHead(width, config.n_embedding, config.dropout)

    @classmethod
    def reads(cls, config: Any) -> frozenset[str]:
        """Patches, or image features where these stand in for the image encoder."""
        return cls.needs - {"patches"} | {"features"} if config.image_encoder == "features" else cls.needs

    def embed_expression(self, batch: Batch, expression: Tensor) -> Tensor:
        """Map standardized expression (n, n_genes) to (n, n_embedding), whatever else is in the batch."""
        raise TypeError(f"{type(self).__name__} defines no embed_expression")

    def load_initial_weights(self) -> None:
        """Start the image encoder from `config.weights`."""
        if self.body is not None and self.config.weights is not None:
            self.body.load_imagenet(self.config.weights)

    def forward(self, batch: Batch) -> Prediction:
        """Look a batch up in the bank; embed it on both sides where it holds a target."""
        expression = batch.outputs()
        if self.training and expression is None:
            raise ValueError(
                f"expected expression to train on; found none: {type(self).__name__} predicts the expression of "
                "training spots, and no classes or outcomes; choose another model for these"
            )
        image = self.embed_images(batch)
        if expression is None or (len(self.bank) and not self.training):
            prediction = self._retrieve(image, batch.patient)
        else:
            prediction = Prediction(self.target_mean.expand(len(batch), -1))
        if expression is not None:
            prediction.extras = {"image": image, "spot": self.embed_spots(batch, expression)}
        return prediction

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of finding the image of each spot among those of the batch, and the spot of each image."""
        image, spot = prediction.extras["image"].float(), prediction.extras["spot"].float()
        logits = self.logits(spot, image)
        target = torch.eye(len(logits), device=logits.device)
        if self.soft_targets:
            # Symmetric, so that the same rows serve in both directions.
            target = ((self.logits(image, image) + self.logits(spot, spot)) / 2).softmax(dim=1)
        images, spots = F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)
        return {"total": (images + spots) / 2, "images": images, "spots": spots}

    def logits(self, embedded: Tensor, others: Tensor) -> Tensor:
        """Products (n, m) of embeddings (n, n_embedding) and (m, n_embedding) over the temperature."""
        return embedded @ others.T / self.temperature

    def embed_images(self, batch: Batch) -> Tensor:
        """Embed the image of each spot on its own: (n, n_embedding)."""
        if self.body is None:
            return self._finished(self.image_projection(self.standardize(batch["features"])))
        check_patches(batch["patches"])
        recompute = self.training and torch.is_grad_enabled()
        return in_chunks(self._embed_patches, batch["patches"], self.config.chunk, recompute=recompute)

    def embed_spots(self, batch: Batch, expression: Tensor) -> Tensor:
        """Embed the expression (n, n_genes) of each spot: (n, n_embedding)."""
        return self._finished(self.embed_expression(batch, (expression - self.target_mean) / self.target_std))

    def finish(self, batches: Iterable[Batch]) -> None:
        """Fill the bank with the training spots."""
        parts = []
        for batch in batches:
            expression = batch.outputs()
            assert expression is not None  # `forward` has refused anything else
            parts.append((self.embed_spots(batch, expression), expression, batch.patient, batch.section))
        keys, values, patient, section = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        self.key_length = keys.norm(dim=1)
        self.bank.fill(F.normalize(keys, dim=1), values, patient, section)

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """Size the bank like that of a saved state."""
        self.bank.room(state)
        self.key_length = self.key_length.new_zeros(len(self.bank))

    def _finished(self, embedded: Tensor) -> Tensor:
        return F.normalize(embedded, dim=1) if self.unit_length else embedded

    def _embed_patches(self, patches: Tensor) -> Tensor:
        assert self.body is not None
        n = len(patches)
        if not self.training:
            images = standardized(patches)
        else:
            if n == 1:  # batch norm needs more than one value
                patches = torch.cat([patches, patches])
            options = {"symmetries": self.config.symmetries, "stain_jitter": self.config.stain_jitter}
            images = augmented(patches, **options)
        return self._finished(self.image_projection(self.body(images)[:n]))

    def _retrieve(self, image: Tensor, patient: Tensor) -> Prediction:
        """Weighted mean and standard deviation of the expression of the nearest training spots."""
        image = image.float()
        k = min(self.config.k, max(len(self.bank), 1))
        direction = F.normalize(image, dim=1)
        index, distance = self.bank.nearest(direction, k, patient=None if self.config.same_patient else patient)
        chunk = max(1, _HELD // (k * (self.n_outputs + self.config.n_embedding)))
        rows = zip(image.split(chunk), index.split(chunk), distance.isfinite().split(chunk), strict=True)
        mean, std = zip(*(self._average(*part) for part in rows), strict=True)
        return Prediction(torch.cat(mean), std=torch.cat(std))

    def _average(self, image: Tensor, index: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean and standard deviation (n, n_genes) of some entries (n, k) of the bank."""
        weight = self.retrieval_weights(image, index, found)
        values = self.bank.values[index]
        mean = torch.einsum("nk,nkg->ng", weight, values)
        variance = torch.einsum("nk,nkg->ng", weight, (values - mean.unsqueeze(1)).square_())
        return mean, variance.sqrt()

    def retrieval_weights(self, image: Tensor, index: Tensor, found: Tensor) -> Tensor:
        """Weights (n, k) of entries (n, k) of the bank for embedded images (n, n_embedding); 0 where none was found."""
        affinity = torch.zeros_like(found, dtype=image.dtype)  # logarithm of the weight
        if self.config.weighting != "mean":
            keys = self.bank.keys[index]
            if not self.unit_length:
                keys = keys * self.key_length[index].unsqueeze(2)
            if self.config.weighting == "similarity":
                affinity = torch.einsum("nd,nkd->nk", image, keys) / self.temperature
            else:
                apart = keys - image.unsqueeze(1)
                square = apart.square().sum(dim=2) if self.unit_length else apart.abs().sum(dim=2).square()
                affinity = -square.clamp_min(_SMALLEST).log()
        return affinity.masked_fill(~found, -torch.inf).softmax(dim=1)


def in_chunks(step: Callable[[Tensor], Tensor], values: Tensor, chunk: int, *, recompute: bool) -> Tensor:
    """Apply a step to rows, at most `chunk` of them at a time, in parts of about the same size.

    Parameters
    ----------
    step
        Maps (m, …) to (m, …), each row on its own.
    values
        (n, …).
    chunk
        Most rows at a time.
    recompute
        Whether to compute the activations of each of several parts again on the way back instead of keeping them.
    """
    parts = values.tensor_split(max(1, -(-len(values) // chunk)))
    if len(parts) == 1:
        return step(values)
    return torch.cat([checkpoint(step, part, use_reentrant=False) if recompute else step(part) for part in parts])
