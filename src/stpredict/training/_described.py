"""What is read of a fitted model where it leaves the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from stpredict.models import Predictor
    from stpredict.training._facts import TrainingFacts
    from stpredict.training.targets import Target


class Described(Protocol):
    """The attributes of :class:`stpredict.training.FittedModel` that say what it is."""

    model: str
    network: Predictor
    target: Target
    features: dict[str, Any]
    training: TrainingFacts

    @property
    def panel(self) -> list[str]:
        """Names of the outputs."""
        ...

    @property
    def normalization(self) -> dict[str, Any]:
        """How the training target was normalized."""
        ...
