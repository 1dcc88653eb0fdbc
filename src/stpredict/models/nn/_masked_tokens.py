"""Tokens of a picture, and features of hidden ones told from those that are shown."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.nn._attention import CrossEncoder, TransformerEncoder


class MaskedTokens(nn.Module):
    """A transformer on the tokens of a square map; queries at hidden places ask those that were shown for the features there.

    Parameters
    ----------
    n_inputs
        Width of the tokens as they come.
    dim
        Width of the transformer.
    side
        Side of the square; tokens are its cells, row by row.
    depth, heads, mlp, dropout
        Layers, heads, width of the feed-forward (times `dim`) and dropout.
    """

    positions: Tensor

    def __init__(
        self, n_inputs: int, dim: int, side: int, depth: int, heads: int, mlp: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.proj = nn.Linear(n_inputs, dim)
        self.blocks = TransformerEncoder(dim, depth, heads, mlp, dropout).layers
        if side > 1:  # of a single token nothing can be hidden
            self.mask_query = nn.Parameter(0.02 * torch.randn(1, dim))
            self.mfm = CrossEncoder(dim, 1, heads, mlp, dropout)
        self.register_buffer("positions", square_positions(side, dim), persistent=False)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode tokens (n, side², n_inputs), of which those outside `mask` (n, side²) are not attended to."""
        hidden = self.proj(tokens) + self.positions
        for block in self.blocks:
            hidden = block(hidden, mask=mask)
        return hidden

    def told(self, tokens: Tensor, shown: Tensor) -> Tensor:
        """Features (n, side², dim) of every place, told from the tokens that are `shown` (n, side²) alone."""
        queries = (self.mask_query + self.positions).expand(len(tokens), -1, -1)
        return self.mfm(queries, self(tokens, shown), mask=shown)


def masked_feature_loss(told: Tensor, features: Tensor, hidden: Tensor) -> Tensor | None:
    """1 - cosine of what was told of hidden places (n, p) and the features of all tokens; `None` where nothing is hidden.

    The features (n, p, d) are what is to be told, and get no gradient.
    """
    if not hidden.any():
        return None
    apart = 1 - F.cosine_similarity(told.float(), features.detach().float(), dim=2)
    return (apart * hidden).sum() / hidden.sum()


def hide(mask: Tensor, share: float) -> Tensor:
    """Draw which places to hide (n, p) bool: a share of those inside a mask (n, p), rounded, and never the last one.

    Numbers are drawn on the CPU, so that a seed hides the same on every device.
    """
    order = torch.rand(mask.shape).to(mask.device).masked_fill(~mask, 2.0).argsort(dim=1).argsort(dim=1)
    there = mask.sum(dim=1, keepdim=True)
    n_hidden = torch.minimum((share * there).round(), (there - 1).clamp_min(0))
    return mask & (order < n_hidden)


def square_positions(side: int, dim: int) -> Tensor:
    """Sines and cosines (side², dim) of the rows and columns of a square, row by row; 0 where there is one cell."""
    if side == 1:
        return torch.zeros(1, dim)
    n = -(-dim // 4)
    frequency = 100.0 ** (-torch.arange(n) / n)
    row, col = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angle = torch.cat([row.reshape(-1, 1) * frequency, col.reshape(-1, 1) * frequency], dim=1)
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]
