"""The protocol of networks: what the training loop, saving and prediction ask of each of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._preset import Preset
from stpredict.models.base._published import Published
from stpredict.models.base._shape import Panel, Shape
from stpredict.models.nn._above_lowest import AboveLowest
from stpredict.models.nn._standardize import Standardize
from stpredict.models.nn._unit import Unit

#: What depends on the genes; networks call their last layer `head`.
HEAD = ("head.", "count_head.", "above_lowest.", "target_mean", "target_std", "unit.")


@dataclass(frozen=True)
class Stage:
    """One stage of training; a network has one or several.

    Attributes
    ----------
    name
        Name, as the history prints it and `step` is told it.
    training
        Departures of this stage from the training settings, see :class:`stpredict.training.TrainConfig`.
    trains
        Beginnings of the names of the parameters that are trained; all of them by default.
    labeled
        Whether only measured observations are shown; `False` for stages that learn from pictures alone, too.
    """

    name: str = "fit"
    training: Mapping[str, Any] = field(default_factory=dict)
    trains: tuple[str, ...] = ("",)
    labeled: bool = True


class Predictor(nn.Module):
    """Base of every network: tensors in, tensors out; nothing about containers, files or devices.

    A subclass sets `needs` (the inputs it reads, see :data:`stpredict.models.INPUTS`; where these depend on the
    configuration it defines `reads`) and `draws`, takes `(config, shape)` and defines `forward`. Its last layer is
    called `head`. Networks without gradient steps set `closed_form` and define `finish`. What a network does in another
    way than most it defines: `step` (its loss), `predict` (samples), `stages`, `encode` and `decode` (genes it was not
    trained on).

    Parameters
    ----------
    config
        The network's frozen dataclass of hyperparameters.
    shape
        Number of outputs, widths of the inputs, and genes.
    """

    needs: frozenset[str] = frozenset({"features"})
    #: What a step is made of: shuffled observations, shuffled observations of one section or one patient, or whole sections.
    #: Networks whose configuration chooses say it of themselves.
    draws: Literal["rows", "section_rows", "patient_rows", "sections"] = "rows"
    #: Whether a step may hold several sections, `batch_size` of them; otherwise it holds one.
    several_sections: ClassVar[bool] = True
    #: Observations, or sections, of a step without gradients.
    per_prediction: ClassVar[int] = 512
    stages: tuple[Stage, ...] = (Stage(),)
    closed_form: ClassVar[bool] = False
    #: Whether it draws samples, and not only a mean.
    samples: ClassVar[bool] = False
    #: Whether it compares expression, and can predict nothing else.
    only_expression: ClassVar[bool] = False
    #: Whether it can compare other values of an observation in place of its expression.
    compares_values: ClassVar[bool] = False
    #: Whether its loss is one of every gene, that of its target, so that some genes may count for more than others.
    weighs_genes: ClassVar[bool] = True
    #: Departures from the default training configuration, see :class:`stpredict.training.TrainConfig`.
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    #: Hyperparameters with which the network trains in a second on a CPU: for tests and benchmarks.
    small: ClassVar[Mapping[str, Any]] = {}
    #: The published recipe: what differs from the defaults, in hyperparameters and training; `None` where there is none.
    paper: ClassVar[Preset | None] = None
    #: Configurations by name, besides `"paper"` and `"small"`.
    presets: ClassVar[Mapping[str, Preset]] = {}
    #: How published weights are read, where there are any, see :func:`stpredict.training.load_published`.
    published: ClassVar[Published | None] = None
    #: What the number of epochs may be chosen by, see `monitor` of :class:`stpredict.training.TrainConfig`.
    monitors: ClassVar[tuple[str, ...]] = ("loss", "correlation", "loss_then_correlation")
    #: Beginnings of the names of tensors that depend on the genes or the training set: not what another fit starts from.
    own_tensors: ClassVar[tuple[str, ...]] = HEAD
    #: Beginnings of the names of tensors that `calibrate` fills, which the network that is trained on all rows takes over.
    calibrated: ClassVar[tuple[str, ...]] = ()

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, config: Any, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.needs = self.reads(config)
        self.n_outputs = shape.n_outputs
        #: Outputs that users get: the first ones, where the others only help to train.
        self.n_wanted = shape.n_outputs
        #: What brings predictions back to the unit of the target, where a loss leaves it free.
        self.unit: Unit | None = None
        self.register_buffer("target_mean", torch.zeros(shape.n_outputs))
        self.register_buffer("target_std", torch.ones(shape.n_outputs))

    @classmethod
    def reads(cls, config: Any) -> frozenset[str]:
        """Inputs that a network of this configuration needs."""
        return cls.needs

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Named parts of the loss and their `"total"`: by default that of the kind of target."""
        from stpredict.models.nn._heads import regression_loss

        if batch.target is None:
            raise ValueError("expected a target to learn from; found none in the batch")
        if batch.kind is None:
            return {"total": regression_loss(prediction, batch.target, self.target_std)}
        return {"total": batch.kind.loss(prediction, batch.target, self.target_std)}

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Named parts of the loss of a training or validation step and their `"total"`."""
        return self.loss(self(batch), batch)

    def predict(self, batch: Batch, *, n_samples: int = 0, generator: Generator | None = None) -> Prediction:
        """Predict a batch, by samples drawn from `generator` where the network draws any."""
        return self(batch)

    def encode(self, batch: Batch) -> Any:
        """Return what `decode` turns into genes, whichever they are."""
        raise TypeError(f"{type(self).__name__} predicts the genes it was trained on only; it defines no encode")

    def decode(self, hidden: Any, genes: Panel) -> Prediction:
        """Predict genes from what `encode` returned, whether the network was trained on them or not."""
        raise TypeError(f"{type(self).__name__} predicts the genes it was trained on only; it defines no decode")

    def load_initial_weights(self) -> None:
        """Read pretrained weights before training, where the configuration names some."""

    def start_from(self, other: Predictor, parts: tuple[str, ...] | None = None) -> None:
        """Take tensors of another network, by name and shape.

        Parameters
        ----------
        other
            The network to take from.
        parts
            Beginnings of the names of what is taken, such as `("image_projection.",)`, from a network of any kind. When
            `None` the other must be of the same kind, and everything is taken but the head, which depends on the genes.

        Raises
        ------
        ValueError
            When kind, names or shapes differ; the network is left as it was.
        """
        chosen = (lambda k: not k.startswith(self.own_tensors)) if parts is None else (lambda k: k.startswith(parts))
        own, given = ({k: v for k, v in n.state_dict().items() if chosen(k)} for n in (self, other))
        differing = sorted(
            k for k in own.keys() | given.keys() if k not in own or k not in given or own[k].shape != given[k].shape
        )
        if parts is not None and (differing or not own):
            what = differing[0] if differing else "no such tensor"
            raise ValueError(f"expected the parts {', '.join(parts)} of a {type(other).__name__} to fit; found {what}")
        if type(self) is type(other) and not own:
            raise ValueError(
                f"expected a network with parts that do not depend on the genes to start from; found a "
                f"{type(self).__name__}, which has none; fit it anew"
            )
        if type(self) is not type(other) or differing:
            same = type(self) is type(other) and bool(differing)
            what = f"tensors that do not fit ({differing[0]})" if same else f"a {type(other).__name__}"
            raise ValueError(
                f"expected a {type(self).__name__} of the same hyperparameters and features to start from; found {what}"
            )
        self.load_state_dict(given, strict=False)

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set before training; layers that know what to do with them get theirs."""
        self.target_mean.copy_(summary.target_mean)
        self.target_std.copy_(summary.target_std)
        for module in self.children():
            if isinstance(module, Standardize):
                module.take(*summary.moments[module.of])
            if isinstance(module, AboveLowest):
                module.take(summary.lowest)

    def remember(self, batches: Iterable[Batch]) -> None:
        """Take the rows to be trained on once before the gradient steps; the inner validation is not among them."""

    def finish(self, batches: Iterable[Batch]) -> None:
        """Take the training set once after (or instead of) the gradient steps; networks in closed form get one batch."""

    def calibrate(self, batches: Iterable[Batch], held_out: Iterable[Batch]) -> None:
        """Take the rows of the inner training and those of the inner validation once, after the training."""

    def learn_unit(self, batches: Iterable[Batch], *held_out: Iterable[Batch]) -> None:
        """Learn what :meth:`in_unit` does, from the rows of the training and those of the inner validation.

        Where none are given the slopes that are known stay, and others are those of the training rows.
        """
        unit = Unit(self.n_outputs).to(self.target_mean.device) if self.unit is None else self.unit

        def pairs(rows: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            return ((self.predict(b).mean, b.outputs(), b.section) for b in rows)  # type: ignore[misc]

        trained = list(pairs(batches))
        unit.measure([mean for mean, *_ in trained], self.target_mean, self.target_std)
        if held_out or not unit.shrinkage.known:
            unit.fit(pairs(held_out[0]) if held_out else trained, held_out=bool(held_out))
        self.unit = unit

    def in_unit(self, prediction: Prediction) -> Prediction:
        """What was predicted, in the unit of the target: as it is, unless the loss has left its offset and scale free."""
        return prediction if self.unit is None else self.unit(prediction)

    def take_calibration(self, other: Predictor) -> None:
        """Take over what another network of the same kind and genes has learned from its inner validation."""
        self.unit = copy.deepcopy(other.unit)
        state = {name: tensor for name, tensor in other.state_dict().items() if name.startswith(self.calibrated)}
        self.load_state_dict(state, strict=False)

    def facts(self) -> dict[str, Any]:
        """Plain values about the training to be recorded with the model."""
        return {}

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """Make what not every network has, and size buffers, like those of a saved state, before it is loaded."""
        if any(name.startswith("unit.") for name in state):
            self.unit = Unit(self.n_outputs)
