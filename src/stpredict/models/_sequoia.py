"""SEQUOIA: linearized attention over the tokens of a slide."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.base._published import Published, Tree, count_layers, joined, sizes_of, stacked
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._bag_layers import AS_PUBLISHED, FPKM_UQ, ResidualBag, feed_forward, masked_mean, residual_tree


@dataclass(frozen=True)
class SequoiaConfig:
    """Hyperparameters of `sequoia`.

    Attributes
    ----------
    depth
        Number of layers.
    heads
        Heads of each layer.
    d_head
        Width of each head: of what it takes from a token, of its summary of the slide, and of their combination.
    n_tokens
        Tokens that have a position, for `positional_embedding`; otherwise bags may have any number of tokens.
    positional_embedding
        Whether to add a learned vector to each token by its place in the bag. Clusters have no order: only for published weights
        that hold one.
    standardize
        Standardize the tokens, and predict in units of each gene's training standard deviation from its mean;
        `False` reads and predicts raw values, as published.
    """

    depth: int = 6
    heads: int = 16
    d_head: int = 64
    n_tokens: int = 100
    positional_embedding: bool = False
    standardize: bool = True


def _sequoia(state: Mapping[str, Tensor]) -> Tree:
    first = "transformer.layers.0.0.mixers."
    heads = count_layers(state, re.escape(first) + r"(\d+)\.")
    tree = residual_tree(state, {"heads": heads, "d_head": sizes_of(state, f"{first}0.f.weight", 2)[0]})
    for i in range(tree.hyperparameters["depth"]):
        ours, theirs = f"layers.{i}.mixing", f"transformer.layers.{i}.0"
        for part in ("weight", "bias"):
            for own, their, join in (
                ("local.", "f.", joined),
                ("summary.", "s.", joined),
                ("local_norm.", "local_norm.", stacked),
                ("summary_norm.", "summary_norm.", stacked),
                ("combine_", "c.", stacked),
            ):
                keys = [f"{theirs}.mixers.{j}.{their}{part}" for j in range(heads)]
                tree.sources[f"{ours}.{own}{part}"] = (keys, join)
        tree.same(f"{ours}.projection", f"{theirs}.projection")
    return tree


@register(
    "sequoia",
    config=SequoiaConfig,
    description="Linearized transformer on bags: every token is mixed with a summary of its slide",
    paper="pizurica2024",
    license_of_reference="MIT",
)
class Sequoia(ResidualBag):
    """Layers of summary mixing in place of attention, whose cost is linear in the number of tokens."""

    published = Published("linear_head.1.weight", _sequoia, FPKM_UQ)
    paper = AS_PUBLISHED
    small = {"depth": 2, "heads": 2, "d_head": 16}

    config: SequoiaConfig

    def __init__(self, config: SequoiaConfig, shape: Shape) -> None:
        layers: list[nn.Module] = [
            SequoiaLayer(shape.width("tokens"), config.heads, config.d_head) for _ in range(config.depth)
        ]
        super().__init__(config, shape, layers)


class SequoiaLayer(nn.Module):
    """Mixing and feed-forward network, each added to what comes in; there is no norm before the mixing."""

    def __init__(self, width: int, heads: int, d_head: int) -> None:
        super().__init__()
        self.mixing = SummaryMixing(width, heads, d_head)
        self.feed_forward = feed_forward(width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        tokens = tokens + self.mixing(tokens, mask)
        return tokens + self.feed_forward(tokens)


class SummaryMixing(nn.Module):
    """Combine each token with a summary of all tokens of its slide, all heads in the same products.

    A head computes `GELU(W_c [f; s] + b_c)` of `f = GELU(norm(W_f x + b_f))` of a token and
    `s = GELU(norm(mean(W_s x + b_s)))` of the slide. The mean is taken before `W_s`, and the half of `W_c` that meets
    the summary is applied once per slide: the summary costs nothing per token.
    """

    def __init__(self, width: int, heads: int, d_head: int) -> None:
        super().__init__()
        self.local = nn.Linear(width, heads * d_head)
        self.local_norm = HeadNorm(heads, d_head)
        self.summary = nn.Linear(width, heads * d_head)
        self.summary_norm = HeadNorm(heads, d_head)
        bound = (2 * d_head) ** -0.5
        self.combine_weight = nn.Parameter(torch.empty(heads, d_head, 2 * d_head).uniform_(-bound, bound))
        self.combine_bias = nn.Parameter(torch.empty(heads, d_head).uniform_(-bound, bound))
        self.projection = nn.Linear(heads * d_head, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        n, k, _ = tokens.shape
        local = F.gelu(self.local_norm(self.local(tokens).view(n * k, *self.combine_bias.shape)))
        summary = self.summary(masked_mean(tokens, mask))
        summary = F.gelu(self.summary_norm(summary.view(n, *self.combine_bias.shape)))
        of_local, of_summary = self.combine_weight.transpose(1, 2).chunk(2, dim=1)
        # Heads are the batch of these products, (heads, rows, d_head); the products themselves read strided rows.
        shift = torch.baddbmm(self.combine_bias.unsqueeze(1), summary.transpose(0, 1), of_summary)
        combined = torch.bmm(local.transpose(0, 1), of_local)
        combined = F.gelu(combined.unflatten(1, (n, k)).add_(shift.unsqueeze(2)))
        return self.projection(combined.permute(1, 2, 0, 3).flatten(2))


class HeadNorm(nn.Module):
    """Layer norm over the last axis of (..., heads, width) with a scale and shift of each head's own."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, width))
        self.bias = nn.Parameter(torch.zeros(heads, width))

    def forward(self, values: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(values, values.shape[-1:]), self.weight)
