"""What goes into a network and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor


class TargetKind(Protocol):
    """What a batch has to know of the kind of its target; the kinds are in `stpredict.training.targets`."""

    kind: str
    score: str
    whole: bool

    @property
    def linear(self) -> bool:
        """Whether outputs are in the unit of the values."""
        ...

    def outputs(self, values: Tensor) -> Tensor | None:
        """Values on the scale of the outputs; `None` for what is no quantity."""
        ...

    def shift(self, outputs: Tensor) -> Tensor | None:
        """What least squares have to add to training outputs for the link."""
        ...

    def lowest(self) -> Any:
        """Lowest mean value of each output (n_outputs,), an array, or `None`."""
        ...

    def loss(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """Loss of a prediction against the values measured; `scale` (n_outputs,) is their training spread."""
        ...

    def validate(self, mean: Any, values: Any, section: Any) -> float:
        """Score of the outputs of all validation rows, as arrays."""
        ...


@dataclass
class Sections:
    """The whole sections that a batch touches, for inputs that count the observations of sections.

    Attributes
    ----------
    code
        (m,) int64 section of each of their observations, in the order of the inputs.
    row
        (n,) int64 place of each observation of the batch among these.
    """

    code: Tensor
    row: Tensor


@dataclass
class Batch:
    """Tensors of one training or prediction step.

    `batch["features"]` is an input by name; what is there follows from the `needs` of the network.

    Attributes
    ----------
    section
        (n,) int64 number of the section of each observation.
    patient
        (n,) int64 number of the patient of each observation; at prediction its number among the patients that the
        network was trained on, -1 for all others.
    inputs
        Tensors by the names of :data:`stpredict.models.INPUTS`.
    target
        Values measured: (n, n_genes) expression, (n, 2 n_genes) counts and depths, (n, n_values) values, (n,) int64 classes
        (-1: not known), or (n, 2) follow-up time and event; `None` at prediction.
    kind
        Kind of the target; expression when `None`.
    labeled
        (n,) bool, which observations were measured; all of them when `None`. Others have NaN for a target.
    sections
        The whole sections behind inputs such as `"section_features"`.
    identity
        (n,) int64, what tells an observation from all others, whichever are predicted with it: what a network draws for it
        may depend on that.
    reach_um
        Side of the largest square that a row was read from, margin included: rows of a section that are nearer to each
        other share pixels. 0 where that is not known.
    """

    section: Tensor
    patient: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None
    kind: TargetKind | None = None
    labeled: Tensor | None = None
    sections: Sections | None = None
    identity: Tensor | None = None
    reach_um: float = 0.0

    def __len__(self) -> int:
        return len(self.section)

    def __contains__(self, name: str) -> bool:
        return name in self.inputs

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.inputs:
            found = ", ".join(sorted(self.inputs)) or "no inputs"
            raise KeyError(f"expected {name!r} in the batch; found {found}; put it into the `needs` of the network")
        return self.inputs[name]

    def measured(self, kind: str = "expression") -> Tensor | None:
        """Target where it is of this kind (`"expression"`, `"counts"`, `"values"`, `"classes"`, …), else `None`."""
        return self.target if kind == ("expression" if self.kind is None else self.kind.kind) else None

    def outputs(self) -> Tensor | None:
        """Expression or values on the scale of the outputs of a network; `None` without, and for other kinds of targets."""
        return self.target if self.kind is None or self.target is None else self.kind.outputs(self.target)

    @property
    def weight(self) -> Tensor | None:
        """(n_outputs,) how much each output counts in a loss; `None` where all count alike."""
        return getattr(self.kind, "weight", None)

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor to a device."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            if isinstance(value, Sections):
                return Sections(moved(value.code), moved(value.row))
            return value

        return replace(
            self,
            section=moved(self.section),
            patient=moved(self.patient),
            inputs={name: moved(value) for name, value in self.inputs.items()},
            target=moved(self.target),
            labeled=moved(self.labeled),
            sections=moved(self.sections),
            identity=moved(self.identity),
        )


@dataclass
class Prediction:
    """What a network returns.

    Attributes
    ----------
    mean
        (n, n_outputs) in the unit of the target.
    std
        (n, n_outputs) standard deviation in the same unit, where the network gives one.
    samples
        (n, n_samples, n_outputs), where the network draws samples.
    extras
        Anything the network's own loss needs.
    """

    mean: Tensor
    std: Tensor | None = None
    samples: Tensor | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_samples(cls, samples: Tensor) -> Prediction:
        """Mean and standard deviation of samples (n, n_samples, n_outputs), and the samples themselves."""
        spread = samples.std(dim=1) if samples.shape[1] > 1 else None
        return cls(samples.mean(dim=1), std=spread, samples=samples)


@dataclass(frozen=True)
class Summary:
    """Statistics of the training set, computed once before training.

    Attributes
    ----------
    n
        Number of training observations.
    target_mean, target_std
        (n_outputs,). Constant genes have a standard deviation of 1.
    moments
        Mean and standard deviation (d,) of each input that has a width, padding left out. Constant columns have a
        standard deviation of 1.
    lowest
        (n_outputs,) lowest mean value of each output, such as the residual of a gene that is not expressed; `None` where
        there is none.
    """

    n: int
    target_mean: Tensor
    target_std: Tensor
    moments: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    lowest: Tensor | None = None
