"""Predictions that are pulled towards the mean, by as much as held-out rows say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import HEAD, Predictor
from stpredict.models.base._shape import Shape
from stpredict.models.nn._shrinkage import Shrinkage


class ShrinkingPredictor(Predictor):
    """A network whose predictions of expression are shrunk, gene by gene; the configuration has `shrink`.

    A flexible network is bold about genes that the picture says nothing of, and an average of few samples holds their
    noise: such maps explain less than a constant does. Where no rows were held out, predictions stay as they are.
    """

    own_tensors: ClassVar[tuple[str, ...]] = (*HEAD, "shrinkage.")
    calibrated: ClassVar[tuple[str, ...]] = ("shrinkage.",)

    def __init__(self, config: Any, shape: Shape) -> None:
        super().__init__(config, shape)
        self.shrinkage = Shrinkage(shape.n_outputs)

    def shrunk(self, found: Prediction) -> Prediction:
        """The prediction with its mean shrunk, once it is known by how much."""
        return replace(found, mean=self.shrinkage(found.mean)) if self.shrinkage.known else found

    def truth(self, batch: Batch) -> Tensor | None:
        """What predictions are compared with; `None` where there is nothing to be shrunk."""
        return batch.measured()

    def calibrate(self, batches: Iterable[Batch], held_out: Iterable[Batch]) -> None:
        """Compare what is predicted of held-out rows with what was measured."""
        values = [self.truth(batch) for batch in batches] if self.config.shrink else []
        known = [each for each in values if each is not None]
        if not known:
            return
        self.shrinkage.center = torch.cat(known).mean(dim=0)
        self.shrinkage.fit(((self.predict(b).mean, self.truth(b), b.section) for b in held_out), "held-out")  # type: ignore[misc]

    def facts(self) -> dict[str, Any]:
        """Which rows the slopes are of, and quartiles of them over genes."""
        return self.shrinkage.facts()
