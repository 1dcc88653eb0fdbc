"""Follow-up of patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.metrics import concordance
from stpredict.training.targets._target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models import Prediction
    from stpredict.training._facts import TrainingFacts

RISK = "risk"


@dataclass(frozen=True)
class FollowUpTarget(Target):
    """Follow-up time and whether it ended in the event, (n, 2) float32; the output is the log hazard of Cox's model.

    Attributes
    ----------
    time, event
        Columns of `obs` that hold them.
    """

    time: str
    event: str

    kind = "follow_up"
    score = "concordance"
    whole = True  # a risk set does not end with a batch
    #: One number per patient: batches of whole risk sets, more patients to choose the epoch on, shrinkage.
    training_defaults = MappingProxyType(
        {
            "batch_size": 256,
            "monitor": "loss",
            "weight_decay": 1e-2,
            "optimizer": "adamw",
            "validation_fraction": 0.25,
        }
    )

    @property
    def names(self) -> list[str]:
        """The risk."""
        return [RISK]

    def start(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean 0 and standard deviation 1: a hazard has no unit."""
        return np.zeros(1), np.ones(1)

    def loss(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """Cox's partial likelihood."""
        from stpredict.models.nn._cox import cox_loss

        return cox_loss(prediction.mean[:, 0], values[:, 0], values[:, 1])

    def validate(self, mean: np.ndarray, values: np.ndarray, section: np.ndarray) -> float:
        """C-index over all validation rows; 0 where it is not defined."""
        value = concordance(values[:, 0], values[:, 1], np.nan_to_num(mean[:, 0]))
        return value if value == value else 0.0

    def linked(self, outputs: Tensor, facts: TrainingFacts) -> Tensor:
        """Risks relative to the mean of the training observations."""
        return outputs - facts.mean["model"]

    def to_dict(self) -> dict[str, Any]:
        """Return the columns."""
        return {"kind": self.kind, "time": self.time, "event": self.event}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: list[str]) -> FollowUpTarget:
        """Rebuild from the fields."""
        return cls(**fields)
