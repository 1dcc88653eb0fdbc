"""Networks of the encoders that every other one must beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_SEED = 0
_CHANNELS = (3, 32, 64, 128, 128)
_SIDES = (5, 3, 3, 3)


class ColorStatistics(nn.Module):
    """Mean and standard deviation of each channel of a tile: (b, 3, h, w) to (b, 6)."""

    def forward(self, tiles: Tensor) -> Tensor:
        """Compute the six numbers."""
        pixels = tiles.flatten(2)
        return torch.cat([pixels.mean(dim=2), pixels.std(dim=2, correction=0)], dim=1)


class RandomConvolutions(nn.Module):
    """Four convolutions with random weights, rectified: (b, 3, h, w) to mean and standard deviation of 128 maps (b, 256).

    The weights are drawn on the CPU from a seed of their own, with the size that keeps the variance of what passes through.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(_SEED)
        for number, (before, after, side) in enumerate(zip(_CHANNELS, _CHANNELS[1:], _SIDES, strict=False)):
            drawn = torch.randn(after, before, side, side, generator=generator)
            self.register_buffer(f"weight{number}", drawn * math.sqrt(2 / (before * side * side)))

    def forward(self, tiles: Tensor) -> Tensor:
        """Pass tiles through, halving their side three times."""
        values = tiles
        for number, side in enumerate(_SIDES):
            stride = 2 if number < len(_SIDES) - 1 else 1
            weight = self.get_buffer(f"weight{number}")
            values = nn.functional.relu(nn.functional.conv2d(values, weight, stride=stride, padding=side // 2))
        maps = values.flatten(2)
        return torch.cat([maps.mean(dim=2), maps.std(dim=2, correction=0)], dim=1)
