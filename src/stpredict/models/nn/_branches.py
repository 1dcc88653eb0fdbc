"""The branches of TRIPLEX and of the networks that came from it: neighbors, whole section, and their fusion.

All take tokens of one width `dim`; networks project features of any encoder to it first (:func:`projection`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stpredict.models.base._batch import Sections
from stpredict.models.base._grid import place
from stpredict.models.nn._attention import CrossEncoder, TransformerEncoder

SIDE = 5  # of the square of tiles around a spot, the spot's own in the middle
N_NEIGHBORS = SIDE**2
CENTER = N_NEIGHBORS // 2


def projection(width: int, dim: int) -> nn.Module:
    """A linear map of features to the width of the tokens; nothing where they have it."""
    return nn.Identity() if width == dim else nn.Linear(width, dim)


def check_neighbors(neighbors: Tensor) -> None:
    """Raise unless neighbors (n, 25, d) are the tiles of the square."""
    if neighbors.shape[1] != N_NEIGHBORS:
        raise ValueError(
            f"expected {N_NEIGHBORS} neighbors, a square of {SIDE} x {SIDE} tiles; found {neighbors.shape[1]}; run "
            f"stp.pp.neighbor_features(adata, encoder, grid={SIDE})"
        )


def masked_tokens(tokens: Tensor, mask: Tensor) -> Tensor:
    """Tokens (n, k, d) with zeros outside `mask` (n, k), whatever was there."""
    return tokens.masked_fill(~mask.unsqueeze(2), 0.0)


def mean_token(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean (n, d) of the tokens (n, k, d) inside `mask` (n, k); 0 where there is none."""
    share = mask.to(tokens.dtype)
    share = share / share.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.bmm(share.unsqueeze(1), tokens).squeeze(1)


class NeighborEncoder(nn.Module):
    """Attention among the 5 x 5 tiles around a spot, with a learned bias by their offsets, and a norm.

    Parameters
    ----------
    dim, depth, heads, mlp, dropout
        See :class:`~stpredict.models.nn._attention.TransformerEncoder`.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = TransformerEncoder(dim, depth, heads, mlp, dropout, side=SIDE)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Transform the tokens (n, 25, dim), row by row of the square; those outside `mask` (n, 25) reach no other."""
        return self.norm(self.layer(masked_tokens(tokens, mask), mask))


class PositionConv(nn.Module):
    """A depth-wise 3 x 3 convolution over the grid of a section, read at its spots: what lies beside a token.

    Tokens go to the grid and back by index, so that their order does not matter, nor which sections came before; empty
    cells count as 0.

    Parameters
    ----------
    dim
        Width of the tokens.
    residual
        Whether to add the result to the tokens, instead of replacing them.
    """

    def __init__(self, dim: int, *, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.proj = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, tokens: Tensor, cell: Tensor) -> Tensor:
        """Tokens (m, dim) of one section with their rows and columns (m, 2), from 0; no two share a cell."""
        placement = place(torch.zeros_like(cell[:, 0]), cell, 1)
        beside = placement.gather(self.proj(placement.scatter(tokens)))
        return tokens + beside if self.residual else beside


class GlobalEncoder(nn.Module):
    """Attention among all spots of a section, with their positions after the first layer, and a norm.

    Memory grows linearly with the number of spots.

    Parameters
    ----------
    dim, depth, heads, mlp, dropout
        See :class:`~stpredict.models.nn._attention.TransformerEncoder`; one layer comes before the positions and
        `depth - 1` after them.
    residual
        Of :class:`PositionConv`.
    """

    def __init__(
        self, dim: int, depth: int, heads: int, mlp: float, dropout: float = 0.0, *, residual: bool = True
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"expected at least one layer over the section; found depth={depth}")
        self.layer1 = TransformerEncoder(dim, 1, heads, mlp, dropout)
        self.pos_layer = PositionConv(dim, residual=residual)
        self.layer2 = TransformerEncoder(dim, depth - 1, heads, mlp, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, cell: Tensor) -> Tensor:
        """Transform the tokens (m, dim) of one section at rows and columns (m, 2)."""
        tokens = self.layer1(tokens.unsqueeze(0)).squeeze(0)
        tokens = self.pos_layer(tokens, cell)
        return self.norm(self.layer2(tokens.unsqueeze(0)).squeeze(0))


class FusionEncoder(nn.Module):
    """What the token of a spot finds among the tokens of its tile, and, by the same weights, among its neighbors.

    Parameters
    ----------
    dim, depth, heads, mlp, dropout
        See :class:`~stpredict.models.nn._attention.CrossEncoder`.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.fusion_layer = CrossEncoder(dim, depth, heads, mlp, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, spot: Tensor, target: Tensor, neighbors: Tensor, mask: Tensor) -> Tensor:
        """Fuse spots (n, dim) with the tokens (n, k, dim) of their tiles and of neighbors (n, 25, dim), masked (n, 25)."""
        query = spot.unsqueeze(1)
        fused = self.fusion_layer(query, target) + self.fusion_layer(query, neighbors, mask)
        return self.norm(fused.squeeze(1))


def of_sections(encode: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, cell: Tensor, sections: Sections) -> Tensor:
    """Encode each of the whole sections that a batch touches once, and take the rows of the batch.

    Parameters
    ----------
    encode
        Maps the tokens (m, dim) of one section and their cells (m, 2) to (m, dim); a :class:`GlobalEncoder`.
    tokens, cell
        (m, dim) and (m, 2) of all observations of these sections: `section_features`, projected, and `section_cell`.
    sections
        `batch.sections`.

    Returns
    -------
    (n, dim), in the order of the batch.
    """
    codes = sections.code.unique()
    if len(codes) == 1:
        return encode(tokens, cell)[sections.row]
    members = [(sections.code == code).nonzero().squeeze(1) for code in codes]
    encoded = torch.cat([encode(tokens[rows], cell[rows]) for rows in members])
    place_of = torch.empty_like(sections.code)
    place_of[torch.cat(members)] = torch.arange(len(place_of), device=place_of.device)
    return encoded[place_of[sections.row]]
