"""How a network is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal

from stpredict.core._validate import check_choice

_CHOICES = {
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("constant", "cosine", "step"),
    "monitor": ("loss", "correlation", "loss_then_correlation"),
    "precision": (
        "auto", "32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "32", "64", "16", "bf16",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop; closed-form networks ignore them.

    Attributes
    ----------
    max_epochs
        Upper limit of epochs.
    batch_size
        Observations per step, or whole sections for networks that take several of these at once.
    optimizer
        `"adamw"`, `"adam"` or `"sgd"`.
    learning_rate, weight_decay, momentum
        Settings of the optimizer; momentum only for `"sgd"`.
    schedule
        `"constant"`; `"cosine"`: half a cosine over `max_epochs`, down to `final_learning_rate`; or `"step"`: times
        `step_factor` after every `step_epochs` epochs.
    final_learning_rate, step_epochs, step_factor
        Settings of the schedules.
    patience
        Epochs without improvement on the inner validation before training stops; 0 trains for `max_epochs` without
        inner validation.
    min_delta
        Smallest improvement that counts.
    validation_fraction
        Share of the training patients held out for the inner validation (at least one).
    monitor
        `"loss"`: the network's own validation loss. `"correlation"`: mean per-gene correlation within sections, across
        slides where the observations are slides, and the C-index for follow-up.
        `"loss_then_correlation"`: the best loss until it has not improved for `patience` epochs, then whichever
        correlation is above all before it, until that has not improved for `patience` epochs (counted from the first
        epoch on) or the loss has been at least `loss_tolerance` above its best for as many :cite:p:`pizurica2024`.
    loss_tolerance
        Rise of the loss that ends `"loss_then_correlation"`, in the unit of the loss.
    refit
        After the number of epochs was chosen, train once more on everything, inner validation included.
    gradient_clip
        Largest gradient norm; 0 for none.
    precision
        `"auto"` (mixed on an accelerator, full on a CPU) or a precision of Lightning.
    device
        Device to train on: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"` or `"auto"`; `settings.device` when `None`. The result
        does not depend on it but for rounding.

    Raises
    ------
    ValueError
        When a setting has a value that it cannot have; the message names it.
    """

    max_epochs: int = 200
    batch_size: int = 128
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    final_learning_rate: float = 0.0
    step_epochs: int = 50
    step_factor: float = 0.9
    patience: int = 15
    min_delta: float = 1e-4
    validation_fraction: float = 0.2
    monitor: Literal["loss", "correlation", "loss_then_correlation"] = "loss"
    loss_tolerance: float = 0.5
    refit: bool = False
    gradient_clip: float = 1.0
    precision: str = "auto"
    device: str | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(getattr(self, name), choices, name)
        for name, least in (("max_epochs", 1), ("batch_size", 1), ("patience", 0), ("step_epochs", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"expected {name} to be a whole number of at least {least}; found {value!r}")
        for name in (
            "learning_rate", "weight_decay", "momentum", "gradient_clip", "loss_tolerance", "min_delta",
            "final_learning_rate",
        ):  # fmt: skip
            self._check_number(name, float("inf"))
        for name, below in (("validation_fraction", 1.0), ("step_factor", float("inf"))):
            if not self._check_number(name, below) > 0:
                raise ValueError(f"expected {name} above 0; found {getattr(self, name)!r}")
        if not isinstance(self.refit, bool):
            raise ValueError(f"expected refit to be true or false; found {self.refit!r}")
        if self.device is not None and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(self.device)):
            raise ValueError(f"expected device to be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N'; found {self.device!r}")

    def _check_number(self, name: str, below: float) -> float:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < below:
            limit = "" if below == float("inf") else f" and below {below:g}"
            raise ValueError(f"expected {name} to be a finite number of at least 0{limit}; found {value!r}")
        return float(value)

    def updated(self, changes: Mapping[str, Any]) -> TrainConfig:
        """Return a copy with some settings changed; an unknown one is an error that lists the known ones."""
        known = [f.name for f in fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise TypeError(f"expected training settings among {', '.join(known)}; found {', '.join(unknown)}")
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a configuration file."""
        return asdict(self)
