"""How a network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop; closed-form networks ignore them.

    Attributes
    ----------
    max_epochs
        Upper limit of epochs.
    batch_size
        Observations per step (networks that read whole sections take one section per step).
    optimizer
        `"adamw"`, `"adam"` or `"sgd"`.
    learning_rate, weight_decay, momentum
        Of the optimizer; momentum only for `"sgd"`.
    schedule
        `"constant"` or `"cosine"` over `max_epochs`.
    patience
        Epochs without improvement on the inner validation before training stops; 0 trains for `max_epochs` without
        inner validation.
    min_delta
        Smallest improvement that counts.
    validation_fraction
        Share of the training patients held out for the inner validation (at least one).
    monitor
        `"loss"`: the network's own validation loss. `"correlation"`: mean per-gene correlation, within sections for
        networks on spots and sections, across slides for networks on bags, and the C-index for outcomes.
        `"loss_then_correlation"`: the best loss until it has not improved for `patience` epochs, then the best
        correlation, until that has not improved for `patience` epochs or the loss has been at least `loss_tolerance`
        above its best for as many :cite:p:`pizurica2024`.
    loss_tolerance
        For `"loss_then_correlation"`, in the unit of the loss.
    refit
        After the number of epochs was chosen, train once more on everything, inner validation included.
    gradient_clip
        Largest gradient norm; 0 for none.
    precision
        `"auto"` (mixed on an accelerator, full on a CPU) or a precision of Lightning.
    """

    max_epochs: int = 200
    batch_size: int = 128
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    patience: int = 15
    min_delta: float = 1e-4
    validation_fraction: float = 0.2
    monitor: Literal["loss", "correlation", "loss_then_correlation"] = "loss"
    loss_tolerance: float = 0.5
    refit: bool = False
    gradient_clip: float = 1.0
    precision: str = "auto"

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
