"""What the networks on bags have in common: standardized tokens, masked means, residual layers, and their training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.base._bag import BagPredictor
from stpredict.models.base._batch import Summary
from stpredict.models.base._preset import Preset
from stpredict.models.base._published import Tree, count_layers, only, sizes_of
from stpredict.models.base._shape import Shape
from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._standardize import Standardize

#: Training of the networks compared by :cite:t:`pizurica2024`.
RECIPE: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "batch_size": 16,
    "max_epochs": 200,
    "patience": 20,
    "monitor": "loss_then_correlation",
    "loss_tolerance": 0.5,
    "validation_fraction": 0.1,
}
#: What they do with positions, units and gradients.
AS_PUBLISHED = Preset({"positional_embedding": True, "standardize": False}, {"gradient_clip": 0.0})
#: How the targets of the published networks were normalized.
FPKM_UQ = {"method": "log2p1", "unit": "fpkm-uq"}
_LAYER = r"transformer\.layers\.(\d+)\."


class StandardizedBag(BagPredictor):
    """Networks on bags whose tokens and targets are in units of the training set, where `config.standardize`.

    Otherwise the network sees and predicts the raw values, as published weights need it.
    """

    training_defaults = RECIPE

    head: RegressionHead

    def __init__(self, config: Any, shape: Shape) -> None:
        super().__init__(config, shape)
        self.standardize = Standardize(shape.width("tokens"), of="tokens")

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set before training."""
        if not self.config.standardize:
            return
        super().prepare(summary)

    def tokens(self, bag: Tensor) -> Tensor:
        """Standardize tokens (..., n_features)."""
        return self.standardize(bag) if self.config.standardize else bag

    def in_target_units(self, values: Tensor, genes: slice) -> Tensor:
        """Outputs (n, g) of the head for some genes, in the unit of the target."""
        return torch.addcmul(self.target_mean[genes], values, self.target_std[genes])


class ResidualBag(StandardizedBag):
    """Residual layers over the tokens of a slide, the mean over its tokens, a norm and a linear map to the genes.

    A subclass passes its layers, each called with tokens (n, n_tokens, n_features) and their mask (n, n_tokens).
    """

    def __init__(self, config: Any, shape: Shape, layers: list[nn.Module]) -> None:
        super().__init__(config, shape)
        self.position = (
            nn.Parameter(torch.randn(config.n_tokens, shape.width("tokens"))) if config.positional_embedding else None
        )
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(shape.width("tokens"))
        self.head = RegressionHead(shape.width("tokens"), shape.n_outputs, zero_init=config.standardize)

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Join the tokens of each slide; those outside the mask have no influence, whatever they hold."""
        if self.position is not None:
            if tokens.shape[1] > len(self.position):
                raise ValueError(
                    f"expected at most {len(self.position)} tokens, as many as there are positions; found "
                    f"{tokens.shape[1]}; make bags of this size, or set positional_embedding=False"
                )
            tokens = tokens + self.position[: tokens.shape[1]]
        tokens = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return self.norm(masked_mean(tokens, mask))

    def read_out(self, pooled: Tensor, mask: Tensor | None = None, genes: slice = slice(None)) -> Tensor:
        """Predict some genes (n, g), in the unit of the target, from (n, n_features)."""
        return self.in_target_units(F.linear(pooled, self.head.mean.weight[genes], self.head.mean.bias[genes]), genes)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens (n, n_tokens, d) where `mask` (n, n_tokens) is true, or weighted by it, as one product."""
    share = mask.to(tokens.dtype)
    return torch.bmm((share / share.sum(dim=1, keepdim=True)).unsqueeze(1), tokens).squeeze(1)


def mean_of_tiles(tokens: Tensor, size: Tensor) -> Tensor:
    """Mean over tiles (n, d) from tokens (n, n_tokens, d) and the number of tiles behind each; those of none may hold anything."""
    return masked_mean(tokens.masked_fill((size <= 0).unsqueeze(-1), 0.0), size)


def feed_forward(width: int, hidden: int) -> nn.Sequential:
    """Norm, linear, GELU, linear."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def residual_tree(state: Mapping[str, Tensor], hyperparameters: dict[str, Any]) -> Tree:
    """What the two transformers share: positions, feed-forward networks, norm and head."""
    n_genes, n_features = sizes_of(state, "linear_head.1.weight", 2)
    depth = count_layers(state, _LAYER)
    positions = "pos_emb1D" in state
    hyperparameters |= {"depth": depth, "positional_embedding": positions, "standardize": False}
    if positions:
        hyperparameters["n_tokens"] = sizes_of(state, "pos_emb1D", 2)[0]
    tree = Tree(n_features, n_genes, hyperparameters)
    if positions:
        tree.sources["position"] = (["pos_emb1D"], only)
    for i in range(depth):
        for j in (0, 1, 3):
            tree.same(f"layers.{i}.feed_forward.{j}", f"transformer.layers.{i}.1.net.{j}")
    tree.same("norm", "linear_head.0")
    tree.same("head.mean", "linear_head.1")
    return tree
