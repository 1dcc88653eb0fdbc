"""A target whose outputs do not all count alike: auxiliary genes help to train, primary genes are what is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from stpredict.models.nn._weighted import correlation_loss, weighted_mean
from stpredict.training.targets import Target

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models import Prediction


def soft_mask(cut: Tensor, n_primary: int, n_auxiliary: int, temperature: float) -> Tensor:
    r"""Weights (n_primary + n_auxiliary,) of genes: 1 for the primary ones, then those of the auxiliary ones by rank.

    :math:`\sigma((k - r) / \tau)` with the cut :math:`k`, the temperature :math:`\tau` and ranks :math:`r` that go from
    0, the first auxiliary gene, to 1, the last :cite:p:`shiku2025`.
    """
    rank = torch.linspace(0, 1, n_auxiliary, dtype=cut.dtype, device=cut.device)
    return torch.cat([cut.new_ones(n_primary), torch.sigmoid((cut - rank) / temperature)])


class Weighted:
    """A kind of target with a weight (n_outputs,) for every output, which may change while a network is trained.

    Everything but the loss and the score is that of the kind itself. The first `n_primary` outputs are those that the
    score looks at.

    Parameters
    ----------
    kind
        The target.
    weight
        (n_outputs,), at least 0, not all of them 0.
    n_primary
        Number of outputs that are scored.
    gene_loss
        `"own"`: the loss of the target; `"pearson"`: 1 - Pearson's correlation of each output over the batch.
    """

    def __init__(self, kind: Target, weight: Tensor, n_primary: int, gene_loss: Literal["own", "pearson"]) -> None:
        self.base, self.weight, self.n_primary, self.gene_loss = kind, weight, n_primary, gene_loss
        self.asked = 0  # how often a network has asked for the loss: one that never does has no use for weights

    def __getattr__(self, name: str) -> Any:
        if name in {"base", "__setstate__"}:  # an object that is being copied has none yet
            raise AttributeError(name)
        return getattr(self.base, name)

    def loss(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """Weighted mean over the outputs of the loss of each."""
        self.asked += 1
        if self.gene_loss == "own":
            return weighted_mean(self.base.losses(prediction, values, scale), self.weight)
        outputs = self.base.outputs(values)
        assert outputs is not None  # of genes
        return correlation_loss(prediction.mean / scale, outputs / scale, self.weight)

    def validate(self, mean: np.ndarray, values: np.ndarray, section: np.ndarray) -> float:
        """Score of the primary outputs."""
        first = np.arange(self.n_primary)
        return self.base.part(first).validate(mean[:, first], self.base.values_of(values, first), section)
