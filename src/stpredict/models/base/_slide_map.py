"""What networks on the maps of slides share, which predict an outcome of the patient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._shape import Shape
from stpredict.models.nn._standardize import Standardize

_EPS = 1e-6


class SlideMapPredictor(Predictor):
    """Base of networks on maps: slides are bags whose tokens are the cells of the map.

    `tokens` are the cells row by row, `token_size` is positive on the tissue, and `features` are the clinical covariates,
    standardized. Channels are standardized with the cells of the training slides. The output is the log risk, or the logit of
    the second class. The configuration has `shape`, `n_clinical` and `class_weights`.
    """

    needs = frozenset({"tokens", "token_size", "features"})
    per_prediction = 64

    def __init__(self, config: Any, shape: Shape) -> None:
        super().__init__(config, shape)
        if config.class_weights and shape.n_outputs != 1:
            raise ValueError(
                f"expected two classes with class_weights; found {shape.n_outputs} outputs; leave them out"
            )
        self.standardize = Standardize(shape.width("tokens"), of="tokens")

    @classmethod
    def reads(cls, config: Any) -> frozenset[str]:
        """Maps, and covariates where there are any."""
        return cls.needs if config.n_clinical else cls.needs - {"features"}

    def cells(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Standardized channels (n, n_cells, d) of all cells, and which of them (n, n_cells) are on the tissue."""
        n_cells = self.config.shape[0] * self.config.shape[1]
        if batch["token_size"].shape[1] != n_cells:
            raise ValueError(
                f"expected {n_cells} tokens, one for each cell of maps of {self.config.shape}; found "
                f"{batch['token_size'].shape[1]}; pass hyperparameters={{'shape': (n_rows, n_cols)}}"
            )
        return self.standardize(batch["tokens"]), batch["token_size"] > 0

    def predicted(self, outputs: Tensor) -> Prediction:
        """What the network says, from its start: the training mean, or even odds of classes that weigh the same."""
        if not self.config.class_weights:
            outputs = torch.addcmul(self.target_mean, self.target_std, outputs)
        return Prediction(outputs)

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Cox loss of an outcome in time, or cross-entropy weighted by class."""
        label = batch.measured("classes")
        if label is None or not self.config.class_weights:
            return super().loss(prediction, batch)
        known = label >= 0
        label = label.clamp_min(0)
        weight = torch.tensor(self.config.class_weights, device=label.device)[label] * known
        losses: Any = F.binary_cross_entropy_with_logits(
            prediction.mean[:, 0], label.to(prediction.mean.dtype), reduction="none"
        )
        return {"total": (weight * losses).sum() / weight.sum().clamp_min(_EPS)}
