"""How a network is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal

from stpredict.core._validate import check_choice

_CHOICES = {
    "optimizer": ("adamw", "adam", "sgd"),
    "schedule": ("constant", "cosine", "step"),
    "monitor": ("loss", "correlation", "loss_then_correlation"),
    "auxiliary": ("all", "dkgsb"),
    "gene_loss": ("own", "pearson"),
    "strategy": ("auto", "ddp", "ddp_spawn"),
    "cut_gradient": ("difference", "unrolled"),
    "precision": (
        "auto", "32-true", "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "32", "64", "16", "bf16",
    ),
}  # fmt: skip

#: Settings of a machine that are not told of a model, which does not depend on them.
UNTOLD = ("device", "num_workers")


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
    auxiliary
        What the genes of the panel beyond the primary ones are for. `None`: all genes are predicted, and count alike.
        `"all"`: only the primary genes are predicted; the others are trained on beside them, with the same weight.
        `"dkgsb"`: as many of these, from the first in their ranking, as help the primary ones :cite:p:`shiku2025`.
    n_primary, primary
        Number of primary genes, the most variable ones of the training observations; or their names, which count instead.
    gene_loss
        Loss of each gene where there are auxiliary ones: `"own"`, that of the target; or `"pearson"`, 1 - Pearson's correlation
        over the batch, which leaves the offset and the scale of predictions free: they get those of the target afterwards, with
        slopes from the inner validation; without one those of the training rows, which are too bold.
    mask_temperature
        Width τ of the step from weight 1 to weight 0 around the cut of `"dkgsb"`, with ranks from 0 to 1.
    cut_start, cut_learning_rate
        Where the cut begins, between 0 (none) and 1 (all auxiliary genes), and the length of its steps.
    cut_pairs, cut_steps
        Pairs of batches before each epoch that move the cut, and steps of the network on each.
    cut_gradient
        `"difference"` between two copies of the network with a cut a little lower and a little higher; or `"unrolled"`, the
        derivative through all steps, which takes more memory.
    precision
        `"auto"` (mixed on an accelerator, full on a CPU) or a precision of Lightning.
    device
        Device to train on: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"` or `"auto"`; `settings.device` when `None`. The result
        does not depend on it but for rounding.
    devices
        Number of processes that train side by side, each on a device of its own (on a CPU all on this one), or the numbers of
        the devices. The rows of a step are divided among them, so that `batch_size` and the result are those of one process,
        but for rounding and random draws; networks that take one section at a time take one on each, and what a loss
        compares within a step are the rows of one process.
    strategy
        How the processes begin. `"auto"`: those that `torchrun` or SLURM have started, or else new ones. `"ddp_spawn"`: new ones,
        each with a copy of the rows, that end with the fit; a script needs `if __name__ == "__main__":`. `"ddp"`: the script again
        for each device.
    num_nodes
        Number of machines, with `devices` processes on each, started by `torchrun` or SLURM.
    num_workers
        Number of threads that read the batches to come while a step is taken, at most two batches ahead each; the step itself
        reads its batch when 0. Worth it where rows come from files, as those of a :class:`stpredict.Cohort` and patches, and
        where the network is on an accelerator. The result does not depend on it.

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
    auxiliary: Literal["all", "dkgsb"] | None = None
    n_primary: int = 50
    primary: Sequence[str] | None = None
    gene_loss: Literal["own", "pearson"] = "own"
    mask_temperature: float = 0.01
    cut_start: float = 0.5
    cut_learning_rate: float = 3e-3
    cut_pairs: int = 8
    cut_steps: int = 2
    cut_gradient: Literal["difference", "unrolled"] = "difference"
    precision: str = "auto"
    device: str | None = None
    devices: int | Sequence[int] = 1
    strategy: Literal["auto", "ddp", "ddp_spawn"] = "auto"
    num_nodes: int = 1
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if name != "auxiliary" or self.auxiliary is not None:
                check_choice(getattr(self, name), choices, name)
        for name, least in (
            ("max_epochs", 1), ("batch_size", 1), ("patience", 0), ("step_epochs", 1), ("n_primary", 1), ("cut_pairs", 1),
            ("cut_steps", 1), ("num_nodes", 1), ("num_workers", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"expected {name} to be a whole number of at least {least}; found {value!r}")
        for name in (
            "learning_rate", "weight_decay", "momentum", "gradient_clip", "loss_tolerance", "min_delta",
            "final_learning_rate", "cut_learning_rate", "cut_start",
        ):  # fmt: skip
            self._check_number(name, float("inf"))
        for name, below in (
            ("validation_fraction", 1.0),
            ("step_factor", float("inf")),
            ("mask_temperature", float("inf")),
        ):
            if not self._check_number(name, below) > 0:
                raise ValueError(f"expected {name} above 0; found {getattr(self, name)!r}")
        if self.cut_start > 1:
            raise ValueError(f"expected cut_start between 0 and 1; found {self.cut_start!r}")
        if self.primary is not None:
            if isinstance(self.primary, str) or not len(self.primary):
                raise ValueError(f"expected primary as a list of genes; found {self.primary!r}")
            object.__setattr__(self, "primary", [str(gene) for gene in self.primary])
        if not isinstance(self.refit, bool):
            raise ValueError(f"expected refit to be true or false; found {self.refit!r}")
        if self.device is not None and not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(self.device)):
            raise ValueError(f"expected device to be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N'; found {self.device!r}")

        self._check_devices()

    def _check_devices(self) -> None:
        given: Any = self.devices
        numbers = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        least: Any = 1 if numbers == [given] else 0  # a count, or names of devices
        whole = all(isinstance(each, Integral) and not isinstance(each, bool) and each >= least for each in numbers)
        if not whole or not 0 < len(numbers) == len(set(numbers)):
            raise ValueError(
                f"expected devices to be a number of at least 1, or different numbers of devices; found {given!r}"
            )
        object.__setattr__(self, "devices", int(given) if numbers == [given] else [int(each) for each in numbers])

    @property
    def n_processes(self) -> int:
        """Number of processes that train side by side, on all machines."""
        return self.num_nodes * (self.devices if isinstance(self.devices, int) else len(self.devices))

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
        """Return plain values for a configuration file, without those that say nothing of what is trained."""
        return {name: value for name, value in asdict(self).items() if name not in UNTOLD}
