"""GELU by its approximation with a hyperbolic tangent."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE, _CUBE = 2 * math.sqrt(2 / math.pi), 0.044715


class TanhGelu(nn.Module):
    """`x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.

    Where no gradient is needed it is `x sigmoid(2 √(2/π) (x + 0.044715 x³))`, the same in other words: on a processor the
    sigmoid takes half the time, as long as the values stay in its cache.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Transform values of any shape."""
        if (torch.is_grad_enabled() and values.requires_grad) or values.device.type != "cpu":
            return F.gelu(values, approximate="tanh")
        inner = (values * values).mul_(_SLOPE * _CUBE).add_(_SLOPE).mul_(values)
        return inner.sigmoid_().mul_(values)
