"""What every kind of target has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict.core._file_rows import columns_of

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models import Prediction
    from stpredict.training._facts import TrainingFacts

_KINDS: dict[str, type[Target]] = {}


class Target(ABC):
    """A kind of target: the names of its outputs, where a network starts, its loss, its scores, its unit.

    A subclass is a frozen dataclass whose fields can be written as JSON; it enters itself by its `kind`.
    """

    #: Name of the kind, as :meth:`stpredict.models.Batch.measured` knows it.
    kind: str
    #: Score by which `monitor="correlation"` chooses the epoch, and its column in the history.
    score: str = "correlation"
    #: Whether the loss of a validation set is that of all of its rows together, and not the mean over batches.
    whole: bool = False
    #: Whether the values are quantities, predicted in their own unit and compared with what was measured.
    quantities: ClassVar[bool] = False
    #: Departures of the training settings that suit this kind of target.
    training_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _KINDS[cls.kind] = cls

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the outputs."""

    @abstractmethod
    def start(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (n_outputs,) that a network starts from."""

    @abstractmethod
    def loss(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """Loss of a prediction; `scale` (n_outputs,) is the standard deviation of `start`."""

    def losses(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """Loss of every value (n, n_outputs), whose mean is the loss; of targets that are measured gene by gene."""
        raise TypeError(f"expected a target of genes; found {self.kind!r}, whose loss is not one of single outputs")

    def part(self, index: np.ndarray) -> Target:
        """The same target with some of its genes, in their order."""
        raise TypeError(f"expected a target of genes; found {self.kind!r}, which is all or nothing")

    def values_of(self, values: Any, index: np.ndarray) -> Any:
        """Columns of values (n, …) that belong to some of the genes; of rows in files, a view of them."""
        return columns_of(values, index)

    def variability(self, values: np.ndarray, section: np.ndarray) -> np.ndarray:
        """How much each gene varies within sections (n_outputs,), beyond what its level explains."""
        raise TypeError(f"expected a target of genes; found {self.kind!r}, whose outputs cannot be ranked")

    @abstractmethod
    def validate(self, mean: np.ndarray, values: np.ndarray, section: np.ndarray) -> float:
        """Score of the outputs (n, n_outputs) of all validation rows; the higher, the better."""

    @property
    def linear(self) -> bool:
        """Whether the outputs of a model are in the unit of the values."""
        return self.quantities

    @property
    def separate(self) -> bool:
        """Whether the values of each output could have been measured without those of the others."""
        return self.quantities

    def outputs(self, values: Tensor) -> Tensor | None:
        """Values on the scale of the outputs, for least squares and for looking them up; `None` for what is no quantity."""
        return None

    def shift(self, outputs: Tensor) -> Tensor | None:
        """What least squares have to add to training outputs (n, n_outputs) for the link; `None` where nothing."""
        return None

    def lowest(self) -> np.ndarray | None:
        """Lowest mean value of each output (n_outputs,), infinite where there is none; `None` where no output has one."""
        return None

    def link(self, mean: np.ndarray, facts: TrainingFacts) -> np.ndarray:
        """Turn outputs (n, n_outputs) of a model into what users get."""
        import torch

        return self.linked(torch.from_numpy(np.require(mean, requirements="W")), facts).numpy()

    def linked(self, outputs: Tensor, facts: TrainingFacts) -> Tensor:
        """The same of tensors."""
        return outputs

    def link_std(self, mean: np.ndarray, std: np.ndarray) -> np.ndarray | None:
        """Turn the standard deviations of outputs (n, n_outputs) with this mean into those of what users get.

        `None` where those of a model say nothing there.
        """
        return std

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return everything but the names as plain values, with `"kind"`."""


def target_from_dict(entry: Mapping[str, Any], names: list[str]) -> Target:
    """Rebuild a target from what `to_dict` returned and the names of its outputs.

    Raises
    ------
    ValueError
        When the kind is not known, or the entry is not complete.
    """
    kind = entry.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"expected a target of kind {', '.join(sorted(_KINDS))}; found {kind!r}")
    fields = {name: value for name, value in entry.items() if name != "kind"}
    try:
        return _KINDS[kind].from_dict(fields, names)  # type: ignore[attr-defined]
    except (TypeError, KeyError) as error:
        raise ValueError(f"expected a complete record of a target of kind {kind!r}; found {error}") from error
