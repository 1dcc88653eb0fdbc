"""Classes of observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.training.targets._expression import mean_correlation
from stpredict.training.targets._target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models import Prediction
    from stpredict.training._facts import TrainingFacts


@dataclass(frozen=True)
class ClassTarget(Target):
    """Classes, (n,) int64, -1 where they are not known.

    Attributes
    ----------
    key
        Column of `obs` that holds them.
    classes
        Their names.
    """

    key: str
    classes: tuple[str, ...]

    kind = "classes"

    @property
    def names(self) -> list[str]:
        """The second of two classes, or every class."""
        return [self.classes[1]] if len(self.classes) == 2 else list(self.classes)

    def start(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits of the shares of the classes, so that a network starts from these as from the mean of a gene."""
        share = np.bincount(values[values >= 0], minlength=len(self.classes)) + 0.5
        logit = np.log(share / share.sum()).astype(np.float32)
        mean = logit[1:] - logit[:1] if len(self.classes) == 2 else logit
        return mean, np.ones(len(mean))

    def loss(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """Cross-entropy of the logits, mean over the observations whose class is known."""
        from stpredict.models.nn._heads import classification_loss

        return classification_loss(prediction.mean, values)

    def validate(self, mean: np.ndarray, values: np.ndarray, section: np.ndarray) -> float:
        """Mean correlation within sections of the probability of each class with whether it is the class."""
        import torch

        from stpredict.models.nn._heads import one_hot

        truth = one_hot(torch.from_numpy(values), mean.shape[1]).numpy()
        known = values >= 0
        return mean_correlation(_probabilities(mean)[known], truth[known], section[known])

    def linked(self, outputs: Tensor, facts: TrainingFacts) -> Tensor:
        """Probabilities of the logits."""
        from stpredict.models.nn._heads import class_probabilities

        return class_probabilities(outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return the column and its classes."""
        return {"kind": self.kind, "key": self.key, "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: list[str]) -> ClassTarget:
        """Rebuild from the fields."""
        return cls(**{**fields, "classes": tuple(fields["classes"])})


def _probabilities(logits: np.ndarray) -> np.ndarray:
    import torch

    from stpredict.models.nn._heads import class_probabilities

    return class_probabilities(torch.from_numpy(logits)).numpy()
