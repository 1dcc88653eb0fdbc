"""The network of the encoder that every other one must beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ColorStatistics(nn.Module):
    """Mean and standard deviation of each channel of a tile: (b, 3, h, w) to (b, 6)."""

    def forward(self, tiles: Tensor) -> Tensor:
        """Compute the six numbers."""
        pixels = tiles.flatten(2)
        return torch.cat([pixels.mean(dim=2), pixels.std(dim=2, correction=0)], dim=1)
