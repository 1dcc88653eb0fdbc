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
from stpredict.models.nn._shrinkage import Shrinkage
from stpredict.models.nn._standardize import Standardize

#: DenseNet as mclSTExp takes it, without the ReLU that stands in front of its classifier.
_BODIES: dict[str, Callable[[], DenseNet121 | ResNet50]] = {
    "densenet121": partial(DenseNet121, rectified=False),
    "resnet50": ResNet50,
}
IMAGE_ENCODERS = (*_BODIES, "features")
WEIGHTINGS = ("inverse_distance", "similarity", "mean")
_HELD = 1 << 25  # numbers of retrieved spots that are held at once
_ROWS = 512  # training spots that are looked up at once
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
    `temperature`, `k`, `weighting`, `normalize`, `same_patient` and `shrink`.

    - With `normalize=True` embeddings have length 1, and one metric serves in the logits of the loss, in retrieval and
      in the weights. With `False` there are three, as published: the logits are products of embeddings as they are,
      retrieval goes by their cosine, and weights by inverse distance use the sum of absolute differences.
    - Until the bank is filled, the prediction of a batch with a target is the training mean.
    - With `shrink=True` what was looked up is pulled towards the mean of the bank, see
      :class:`~stpredict.models.nn._shrinkage.Shrinkage`: by the slope of the truth of spots that were held out of training
      and bank. Where none were, training spots are looked up among other patients (sections where there is one patient,
      spots where there is one section). Their images were trained to find what resembles them, so that such slopes are too
      high, the more the longer the training.

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
    weighs_genes = False  # whole profiles are compared
    own_tensors = (*HEAD, "bank.", "key_length", "spot_", "shrinkage.")
    calibrated = ("shrinkage.",)
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
        self.shrinkage = Shrinkage(shape.n_outputs)

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
        """Fill the bank with the training spots; look these up among each other where no slopes are known yet."""
        unknown = self.config.shrink and not self.shrinkage.known
        images = self._fill(batches, images=unknown)
        if unknown:
            self._compare_within(torch.cat(images))

    def calibrate(self, batches: Iterable[Batch], held_out: Iterable[Batch]) -> None:
        """Compare what the images of held-out spots find among the others with their expression."""
        if self.config.shrink:
            self._fill(batches)
            found = ((self._look_up(self.embed_images(b), None)[0], _expression(b), b.section) for b in held_out)
            self.shrinkage.fit(found, "held-out")

    def facts(self) -> dict[str, Any]:
        """Which spots the slopes are of, and quartiles of them over genes."""
        return self.shrinkage.facts() if self.config.shrink else {}

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """Size the bank like that of a saved state."""
        super().make_room(state)
        self.bank.room(state)
        self.key_length = self.key_length.new_zeros(len(self.bank))

    def _fill(self, batches: Iterable[Batch], *, images: bool = False) -> list[Tensor]:
        """Fill the bank, and embed the images of the same spots (n, n_embedding) where they are asked for."""
        parts, embedded = [], []
        for batch in batches:
            expression = _expression(batch)
            parts.append((self.embed_spots(batch, expression), expression, batch.patient, batch.section))
            if images:
                embedded.append(self.embed_images(batch))
        keys, values, patient, section = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        self.key_length = keys.norm(dim=1)
        self.bank.fill(F.normalize(keys, dim=1), values, patient, section)
        self.shrinkage.center = values.mean(dim=0)
        return embedded

    def _compare_within(self, image: Tensor) -> None:
        """Compare what the images (n, n_embedding) of the spots of the bank find there with their own expression."""
        patient, section, values = self.bank.patient, self.bank.section, self.bank.values
        groups = (patient, section, torch.arange(len(image), device=image.device))
        apart = next((group for group in groups if len(group.unique()) > 1), groups[-1])
        if len(image) == 1:
            self.shrinkage.fit([(values, values, section)], "training")
            return
        self.bank.patient = apart  # whose spots are not looked up
        rows = zip(*(part.split(_ROWS) for part in (image, values, apart, section)), strict=True)
        self.shrinkage.fit(((self._look_up(x, own)[0], y, s) for x, y, own, s in rows), "training")
        self.bank.patient = patient

    def _finished(self, embedded: Tensor) -> Tensor:
        return F.normalize(embedded, dim=1) if self.unit_length else embedded

    def _embed_patches(self, patches: Tensor) -> Tensor:
        assert self.body is not None
        options = {"symmetries": self.config.symmetries, "stain_jitter": self.config.stain_jitter}
        images = augmented(patches, **options) if self.training else standardized(patches)
        return self._finished(self.image_projection(self.body(images)))

    def _retrieve(self, image: Tensor, patient: Tensor) -> Prediction:
        """What is found, shrunk, and the spread of the spots that were found about it."""
        without = None if self.config.same_patient else patient
        found, std = self._look_up(image, without)
        if not self.config.shrink:
            return Prediction(found, std=std)
        mean = self.shrinkage(found, self._centers(without))
        return Prediction(mean, std=torch.hypot(std, found - mean))

    def _centers(self, patient: Tensor | None) -> Tensor | None:
        """Mean (n, n_genes) of the spots of the bank that are not a patient's, where anybody is in it."""
        if patient is None or not bool(torch.isin(patient, self.bank.patient[self.bank.patient >= 0]).any()):
            return None
        centers = self.shrinkage.center.repeat(len(patient), 1)
        for number in patient[patient >= 0].unique():
            others = self.bank.patient != number
            if not others.all():
                centers[patient == number] = self.bank.values[others].mean(dim=0)
        return centers

    def _look_up(self, image: Tensor, patient: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weighted mean and standard deviation (n, n_genes) of the nearest spots of the bank that are not a patient's."""
        image = image.float()
        k = min(self.config.k, max(len(self.bank), 1))
        direction = F.normalize(image, dim=1)
        index, distance = self.bank.nearest(direction, k, patient=patient)
        chunk = max(1, _HELD // (k * (self.n_outputs + self.config.n_embedding)))
        rows = zip(image.split(chunk), index.split(chunk), distance.isfinite().split(chunk), strict=True)
        mean, std = zip(*(self._average(*part) for part in rows), strict=True)
        return torch.cat(mean), torch.cat(std)

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


def _expression(batch: Batch) -> Tensor:
    expression = batch.outputs()
    assert expression is not None  # `forward` has refused anything else
    return expression


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
