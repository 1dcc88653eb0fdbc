"""What every network shares: its inputs, its outputs, and the protocol the training loop works with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stpredict.models.base._batch import Batch, Prediction, Summary, Unit

# What depends on the genes; networks call their last layer `head`.
HEAD = ("head.", "count_head.", "target_mean", "target_std")


class Predictor(nn.Module):
    """Base of every network: tensors in, tensors out; nothing about containers, files or devices.

    A subclass sets `unit` (what one training example is) and `needs` (the tensors of :class:`Batch` it reads; where
    these depend on the configuration it defines `reads`), takes `(config, n_genes, n_features)` and defines `forward`. Networks without gradient steps set `closed_form` and
    define `finish`.

    Parameters
    ----------
    config
        The network's frozen dataclass of hyperparameters.
    n_genes
        Number of genes it predicts.
    n_features
        Width of the image features, 0 where it reads none.
    """

    unit: ClassVar[Unit] = "spot"
    needs: frozenset[str] = frozenset({"features"})
    closed_form: ClassVar[bool] = False
    #: Departures from the default training configuration, see :class:`stpredict.training.TrainConfig`.
    training_defaults: ClassVar[dict[str, Any]] = {}
    #: What the number of epochs may be chosen by, see `monitor` of :class:`stpredict.training.TrainConfig`.
    monitors: ClassVar[tuple[str, ...]] = ("loss", "correlation", "loss_then_correlation")
    #: Beginnings of the names of tensors that depend on the genes or the training set: not what another fit starts from.
    own_tensors: ClassVar[tuple[str, ...]] = HEAD

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, config: Any, n_genes: int, n_features: int = 0) -> None:
        super().__init__()
        self.config = config
        self.needs = self.reads(config)
        self.n_genes = n_genes
        self.n_features = n_features
        self.register_buffer("target_mean", torch.zeros(n_genes))
        self.register_buffer("target_std", torch.ones(n_genes))

    @classmethod
    def reads(cls, config: Any) -> frozenset[str]:
        """Tensors of :class:`Batch` that a network of this configuration needs."""
        return cls.needs

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Named parts of the loss and their `"total"`: by default the regression loss of the head.

        Where the batch holds an outcome instead of a target, the Cox loss of the only output, the log risk; where it
        holds classes, the cross-entropy of the logits.
        """
        from stpredict.models.nn._cox import cox_loss
        from stpredict.models.nn._heads import classification_loss, regression_loss

        if batch.time is not None and batch.event is not None:
            return {"total": cox_loss(prediction.mean[:, 0], batch.time, batch.event)}
        if batch.label is not None:
            return {"total": classification_loss(prediction.mean, batch.label)}
        assert batch.target is not None  # for the type checker; the loop passes targets
        return {"total": regression_loss(prediction, batch.target, self.target_std)}

    def load_initial_weights(self) -> None:
        """Read pretrained weights before training, where the configuration names some."""

    def start_from(self, other: Predictor) -> None:
        """Take the weights of another network of the same kind, except those of the head, which depends on the genes.

        Raises
        ------
        ValueError
            When kind or sizes differ.
        """
        own, given = (
            {k: v for k, v in n.state_dict().items() if not k.startswith(self.own_tensors)} for n in (self, other)
        )
        differing = sorted(
            k for k in own.keys() | given.keys() if k not in own or k not in given or own[k].shape != given[k].shape
        )
        if type(self) is not type(other) or differing or not own:
            same = type(self) is type(other) and bool(differing)
            what = f"tensors that do not fit ({differing[0]})" if same else f"a {type(other).__name__}"
            raise ValueError(
                f"expected a {type(self).__name__} of the same hyperparameters and features to start from; found {what}"
            )
        self.load_state_dict(given, strict=False)

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set before training."""
        self.target_mean.copy_(summary.target_mean)
        self.target_std.copy_(summary.target_std)

    def remember(self, batches: Iterable[Batch]) -> None:
        """Take the rows to be trained on once before the gradient steps; the inner validation is not among them."""

    def finish(self, batches: Iterable[Batch]) -> None:
        """Take the training set once after (or instead of) the gradient steps; networks in closed form get one batch."""

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """Size buffers whose length is that of the training set like those of a saved state, before it is loaded."""
