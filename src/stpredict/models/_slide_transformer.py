"""Softmax attention over the tokens of a slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.base._published import Published, Tree, only, sizes_of
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._bag_layers import AS_PUBLISHED, FPKM_UQ, ResidualBag, feed_forward, residual_tree


@dataclass(frozen=True)
class SlideTransformerConfig:
    """Hyperparameters of `slide_transformer`.

    Attributes
    ----------
    depth
        Number of layers.
    heads
        Attention heads of each layer.
    d_head
        Width of each head.
    d_hidden
        Width of the hidden layer of the feed-forward networks.
    n_tokens
        Tokens that have a position, for `positional_embedding`; otherwise bags may have any number of tokens.
    positional_embedding
        Whether to add a learned vector to each token by its place in the bag; only for published weights that hold one.
    standardize
        Standardize the tokens, and predict in units of each gene's training standard deviation from its mean;
        `False` reads and predicts raw values, as published.
    """

    depth: int = 6
    heads: int = 16
    d_head: int = 64
    d_hidden: int = 2048
    n_tokens: int = 100
    positional_embedding: bool = False
    standardize: bool = True


_D_HEAD = 64  # the fused weights of attention do not tell how many heads they hold


def _slide_transformer(state: Mapping[str, Tensor]) -> Tree:
    first = "transformer.layers.0"
    inner = sizes_of(state, f"{first}.0.to_out.weight", 2)[1]
    if inner % _D_HEAD:
        raise ValueError(f"expected heads of width {_D_HEAD}; found {first}.0.to_out.weight with {inner} columns")
    hidden = sizes_of(state, f"{first}.1.net.1.weight", 2)[0]
    tree = residual_tree(state, {"heads": inner // _D_HEAD, "d_head": _D_HEAD, "d_hidden": hidden})
    for i in range(tree.hyperparameters["depth"]):
        ours, theirs = f"layers.{i}", f"transformer.layers.{i}.0"
        tree.same(f"{ours}.norm", f"{theirs}.norm")
        for part in ("to_qkv", "to_out"):
            tree.sources[f"{ours}.{part}.weight"] = ([f"{theirs}.{part}.weight"], only)
    return tree


@register(
    "slide_transformer",
    config=SlideTransformerConfig,
    description="Transformer with softmax attention on bags",
    paper="pizurica2024",
    license_of_reference="MIT",
)
class SlideTransformer(ResidualBag):
    """Pre-norm transformer over the tokens of a slide, the regular attention that `sequoia` is compared with."""

    published = Published("linear_head.1.weight", _slide_transformer, FPKM_UQ)
    paper = AS_PUBLISHED
    small = {"depth": 2, "heads": 2, "d_head": 16, "d_hidden": 32}

    config: SlideTransformerConfig

    def __init__(self, config: SlideTransformerConfig, shape: Shape) -> None:
        layers: list[nn.Module] = [_Layer(shape.width("tokens"), config) for _ in range(config.depth)]
        super().__init__(config, shape, layers)


class _Layer(nn.Module):
    """Attention and feed-forward network, each after a norm and added to what comes in."""

    def __init__(self, width: int, config: SlideTransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        inner = config.heads * config.d_head
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.feed_forward = feed_forward(width, config.d_hidden)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        qkv = self.to_qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        tokens = tokens + self.to_out(attended.transpose(1, 2).flatten(2))
        return tokens + self.feed_forward(tokens)
