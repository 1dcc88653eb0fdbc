"""Inputs in units of the training set."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """Subtract the mean of each column over the training set and divide by its standard deviation.

    A column that was constant there, whose standard deviation is 0, becomes 0 whatever it is later: nothing was learned
    about it. Until :meth:`take` is called, values pass as they are. :meth:`stpredict.models.Predictor.prepare` calls it for each
    layer of this kind that is a direct child of the network.

    Parameters
    ----------
    width
        Number of columns.
    of
        Name of the input.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, of: str = "features") -> None:
        super().__init__()
        self.of = of
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def take(self, mean: Tensor, std: Tensor) -> None:
        """Take the mean and standard deviation (width,) of the training set, 0 for constant columns."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, values: Tensor) -> Tensor:
        """Standardize (..., width)."""
        return (values - self.mean) / self.std.masked_fill(self.std == 0, torch.inf)
