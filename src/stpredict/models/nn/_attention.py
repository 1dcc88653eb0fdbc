"""Pre-norm attention layers for tokens of any number: among themselves, and of some to others.

Weights have the names of the networks that came from TRIPLEX :cite:p:`chung2024`: `layers.{i}.0` is the attention
(`norm`, `fn.to_qkv` or `fn.to_q` and `fn.to_kv`, `fn.to_out.0`) and `layers.{i}.1` the feed-forward (`norm`,
`fn.net.0`, `fn.net.3`). Attention is exact; without a mask or a bias its memory grows linearly with the number of
tokens, since the matrix of weights is never held. Dropout stops at evaluation; the weights of the attention have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_FAR = -3e4  # a logit whose weight is 0 in every precision, within the range of half precision


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Weighted means of values (b, k, d) by the likeness of queries (b, q, d) and keys (b, k, d), in heads.

    Parameters
    ----------
    query, key, value
        As they come from linear maps; the units of a head lie side by side.
    heads
        Number of heads, a divisor of d.
    bias
        What is added to the logits, of a shape that broadcasts to (b, heads, q, k).

    Returns
    -------
    (b, q, d).
    """
    q, k, v = (each.unflatten(2, (heads, -1)).transpose(1, 2) for each in (query, key, value))
    bias = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


def mask_bias(mask: Tensor) -> Tensor:
    """What keeps queries from keys outside a mask (b, k): float32 (b, 1, 1, k), 0 inside.

    Outside it is finite, so that nothing becomes NaN where a row of the mask is empty; networks set masked tokens to 0.
    """
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, _FAR)[:, None, None, :]


class PreNorm(nn.Module):
    """A layer norm before a layer; where there are keys, the same norm before these."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, tokens: Tensor, *keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the layer to normalized tokens, and to normalized keys."""
        normalized = [self.norm(each) for each in (tokens, *keys)]
        return self.fn(*normalized) if mask is None else self.fn(*normalized, mask=mask)


class SelfAttention(nn.Module):
    """Attention of tokens to each other.

    Parameters
    ----------
    dim
        Width of the tokens; a multiple of `heads`.
    heads
        Number of heads.
    dropout
        After the last linear map.
    side
        Where given, the tokens are the cells of a square of this side, row by row, and each head learns what is added
        to a logit for each pair of absolute row and column offsets: `attention_biases` (heads, side²).
    """

    attention_biases: Tensor | None
    offset: Tensor

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, *, side: int | None = None) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        self.attention_biases = None
        if side is not None:
            self.attention_biases = nn.Parameter(torch.zeros(heads, side**2))
            self.register_buffer("offset", square_offsets(side), persistent=False)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend among tokens (b, n, dim), of which those outside `mask` (b, n) are not attended to."""
        bias = None if mask is None else mask_bias(mask)
        if self.attention_biases is not None:
            own = self.attention_biases[:, self.offset]
            bias = own if bias is None else own + bias
        query, key, value = self.to_qkv(tokens).chunk(3, dim=2)
        return self.to_out(attend(query, key, value, self.heads, bias))


class CrossAttention(nn.Module):
    """Attention of tokens to others.

    Parameters
    ----------
    dim
        Width of both; a multiple of `heads`.
    heads
        Number of heads.
    dropout
        After the last linear map.
    side
        Where given, the keys are the cells of a square of this side, row by row, and each head learns what is added to
        a logit for each pair of absolute offsets, as in :class:`SelfAttention`. At first nearer cells count more.
    centered
        Whether all tokens lie in the middle of that square; otherwise they are its cells as well.
    """

    attention_biases: Tensor | None
    offset: Tensor

    def __init__(
        self, dim: int, heads: int, dropout: float = 0.0, *, side: int | None = None, centered: bool = False
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.attention_biases = None
        if side is not None:
            steps = torch.arange(side)
            near = -(steps[:, None] + steps).flatten().float()
            self.attention_biases = nn.Parameter(near.repeat(heads, 1))
            offset = square_offsets(side)
            middle = side**2 // 2
            self.register_buffer("offset", offset[middle : middle + 1] if centered else offset, persistent=False)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, tokens: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from tokens (b, n, dim) to keys (b, k, dim), of which those outside `mask` (b, k) do not count."""
        bias = None if mask is None else mask_bias(mask)
        if self.attention_biases is not None:
            own = self.attention_biases[:, self.offset]
            bias = own if bias is None else own + bias
        key, value = self.to_kv(keys).chunk(2, dim=2)
        return self.to_out(attend(self.to_q(tokens), key, value, self.heads, bias))


class FeedForward(nn.Module):
    """Linear, GELU, linear, with dropout after both.

    Parameters
    ----------
    dim
        Width.
    hidden
        Width between the two.
    dropout
        Dropout.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim), each alone."""
        return self.net(tokens)


class _Layer(nn.ModuleList):
    """Attention and feed-forward, each with a residual."""

    def __init__(self, attention: PreNorm, feed_forward: PreNorm) -> None:
        super().__init__([attention, feed_forward])

    def forward(self, tokens: Tensor, *keys: Tensor, mask: Tensor | None = None) -> Tensor:
        tokens = tokens + self[0](tokens, *keys, mask=mask)
        return tokens + self[1](tokens)


class TransformerEncoder(nn.Module):
    """Self-attention and feed-forward, each pre-normed and with a residual, `depth` times; no norm at the end.

    Parameters
    ----------
    dim
        Width of the tokens.
    depth
        Number of layers.
    heads
        Number of heads.
    mlp
        Width of the feed-forward, as a multiple of `dim`.
    dropout
        Dropout of attention and feed-forward.
    side
        Side of the square whose cells the tokens are, see :class:`SelfAttention`.
    """

    def __init__(
        self, dim: int, depth: int, heads: int, mlp: float, dropout: float = 0.0, *, side: int | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Layer(
                PreNorm(dim, SelfAttention(dim, heads, dropout, side=side)),
                PreNorm(dim, FeedForward(dim, round(mlp * dim), dropout)),
            )
            for _ in range(depth)
        )

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform tokens (b, n, dim), of which those outside `mask` (b, n) are not attended to."""
        for layer in self.layers:
            tokens = layer(tokens, mask=mask)
        return tokens


class CrossEncoder(nn.Module):
    """Cross-attention and feed-forward, each pre-normed and with a residual, `depth` times; no norm at the end.

    Parameters
    ----------
    dim
        Width of tokens and keys.
    depth
        Number of layers.
    heads
        Number of heads.
    mlp
        Width of the feed-forward, as a multiple of `dim`.
    dropout
        Dropout of attention and feed-forward.
    **square
        Square whose cells the keys are, see :class:`CrossAttention`.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp: float, dropout: float = 0.0, **square: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Layer(
                PreNorm(dim, CrossAttention(dim, heads, dropout, **square)),
                PreNorm(dim, FeedForward(dim, round(mlp * dim), dropout)),
            )
            for _ in range(depth)
        )

    def forward(self, tokens: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform tokens (b, n, dim) by what they find among keys (b, k, dim) inside `mask` (b, k)."""
        for layer in self.layers:
            tokens = layer(tokens, keys, mask=mask)
        return tokens

    def in_parts(self, tokens: Tensor, parts: Sequence[Callable[[], Tensor]], *, recompute: bool = False) -> Tensor:
        """What `forward` returns without a mask, with the keys made part after part, so that they are never all held.

        Parameters
        ----------
        tokens
            (b, n, dim).
        parts
            Each makes some of the keys (b, k, dim), once for each layer.
        recompute
            Whether to make the keys again on the way back, instead of keeping what they were made by.
        """
        layer: Any
        for layer in self.layers:
            norm, attention = layer[0].norm, layer[0].fn
            query = attention.to_q(norm(tokens)).unflatten(2, (attention.heads, -1)).transpose(1, 2)

            def some(query: Tensor, make: Callable[[], Tensor], norm: Any = norm, attention: Any = attention) -> Any:
                key, value = attention.to_kv(norm(make())).chunk(2, dim=2)
                return _part_of_softmax(
                    query, *(x.unflatten(2, (attention.heads, -1)).transpose(1, 2) for x in (key, value))
                )

            peak, total, sums = query.new_full((1,), -torch.inf), query.new_zeros(1), query.new_zeros(1)
            for make in parts:
                own = checkpoint(some, query, make, use_reentrant=False) if recompute else some(query, make)
                highest = torch.maximum(peak, own[0])
                before, here = (peak - highest).exp(), (own[0] - highest).exp()
                peak, total, sums = highest, before * total + here * own[1], before * sums + here * own[2]
            mean = sums / total
            tokens = tokens + attention.to_out(mean.to(query.dtype).transpose(1, 2).flatten(2))
            tokens = tokens + layer[1](tokens)
        return tokens


def _part_of_softmax(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest logit, sum of weights relative to it, and weighted sum of some of the keys, of each head and query."""
    logits = (query @ key.transpose(2, 3)).float() / query.shape[3] ** 0.5
    peak = logits.amax(dim=3, keepdim=True).detach()
    weight = (logits - peak).exp()
    return peak, weight.sum(dim=3, keepdim=True), weight @ value.float()


def square_offsets(side: int) -> Tensor:
    """Number of the pair of absolute row and column offsets (side², side²) of the cells of a square, row by row."""
    row, col = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    row, col = row.flatten(), col.flatten()
    return (row[:, None] - row).abs() * side + (col[:, None] - col).abs()


def check_heads(dim: int, heads: int) -> None:
    """Raise where heads do not share the width."""
    if heads < 1 or dim % heads:
        raise ValueError(f"expected a width that is a multiple of the number of heads; found {dim} and {heads} heads")
