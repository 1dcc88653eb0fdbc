"""Pooling of a vision transformer's tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassAndMean(nn.Module):
    """Class token, followed (optionally) by the mean of the patch tokens, of a timm vision transformer.

    Parameters
    ----------
    trunk
        Returns all tokens (b, n, d): class token, register tokens, patch tokens.
    with_mean
        Whether the mean of the patch tokens is appended.
    """

    def __init__(self, trunk: nn.Module, with_mean: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self.with_mean = with_mean
        self.prefix = int(trunk.num_prefix_tokens)  # type: ignore[arg-type]

    def forward(self, tiles: Tensor) -> Tensor:
        """Features (b, d) or (b, 2 d)."""
        tokens = self.trunk(tiles)
        if not self.with_mean:
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, self.prefix :].mean(dim=1)], dim=1)


def under_trunk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a plain timm transformer, as those of one wrapped in :class:`ClassAndMean`."""
    return {f"trunk.{key}": value for key, value in state.items()}
