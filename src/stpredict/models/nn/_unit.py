"""Bring predictions whose offset and scale are free back to the unit of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stpredict.models.nn._shrinkage import Shrinkage

if TYPE_CHECKING:
    from stpredict.models.base._batch import Prediction

Pair = tuple[Tensor, Tensor, Tensor]


class Unit(nn.Module):
    r"""Map a prediction :math:`m` to :math:`c + s \sigma (m - \bar m) / \sigma_m`, output by output.

    A correlation as the loss leaves offset and scale of a network where its training happened to end, and a network that is
    trained anew ends elsewhere. Predictions are therefore measured in their own mean :math:`\bar m` and standard deviation
    :math:`\sigma_m` over the training rows, and given those of the target, :math:`c` and :math:`\sigma`. The slope :math:`s`
    is that of the truth on such predictions, see :class:`~stpredict.models.nn._shrinkage.Shrinkage`; it does not depend on
    where a training ended, so that a network trained anew takes it over.

    Parameters
    ----------
    n_outputs
        Number of outputs.
    """

    mean: Tensor
    ratio: Tensor

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.shrinkage = Shrinkage(n_outputs)
        self.register_buffer("mean", torch.zeros(n_outputs))
        self.register_buffer(
            "ratio", torch.ones(n_outputs)
        )  # standard deviation of the target over that of predictions

    def forward(self, prediction: Prediction) -> Prediction:
        """The prediction in the unit of the target, without a standard deviation: no loss has taught the network any."""
        return replace(prediction, mean=self.shrinkage(self._scaled(prediction.mean)), std=None)

    def measure(self, means: Sequence[Tensor], center: Tensor, spread: Tensor) -> None:
        """Take the mean and the standard deviation of predictions (n, n_outputs) of the training rows, in parts.

        `center` and `spread` (n_outputs,) are those of the target.
        """
        n, one, two = 0, torch.zeros((), dtype=torch.double), torch.zeros((), dtype=torch.double)
        start = means[0].double().mean(dim=0).cpu()
        for part in means:
            away = part.double().cpu() - start
            n, one, two = n + len(part), one + away.sum(dim=0), two + away.square().sum(dim=0)
        std = (two / n - (one / n).square()).clamp_min(0).sqrt().to(spread)
        self.mean.copy_(start + one / n)
        self.ratio.copy_(torch.where(std > 0, spread / std.where(std > 0, 1.0), 0.0))
        self.shrinkage.center.copy_(center)

    def fit(self, pairs: Iterable[Pair], *, held_out: bool) -> None:
        """Take the slopes of the truth on the predictions; pairs as in :meth:`Shrinkage.fit`."""
        scaled = ((self._scaled(predicted), truth, section) for predicted, truth, section in pairs)
        self.shrinkage.fit(scaled, "held-out" if held_out else "training")

    def facts(self) -> dict[str, Any]:
        """Which rows the slopes are of, and quartiles of them over genes."""
        return self.shrinkage.facts()["shrinkage"]

    def _scaled(self, mean: Tensor) -> Tensor:
        return self.shrinkage.center + self.ratio * (mean - self.mean)
