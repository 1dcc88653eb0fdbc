"""Batch norm of few rows, and of few and small pictures."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm1d(nn.BatchNorm1d):
    """Batch norm that falls back on its running statistics where there is one row, or none.

    The last batch of an epoch may have one spot, and the spots of a batch one nucleus.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (n, c)."""
        if self.training and len(input) < 2:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that falls back on its running statistics where a channel has a single value.

    A section, or the last batch of an epoch, may have one spot, and a small patch one pixel after the last stage.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (n, c, h, w)."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)
