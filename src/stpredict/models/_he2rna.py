"""HE2RNA: scores of single tokens, of which the highest are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stpredict.models.base._preset import Preset
from stpredict.models.base._published import Published, Tree, only, sizes_of, without_kernel
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._bag_layers import FPKM_UQ, StandardizedBag
from stpredict.models.nn._heads import RegressionHead

_CHUNK = 2**25  # scores of genes and tokens that are sorted at a time


@dataclass(frozen=True)
class HE2RNAConfig:
    """Hyperparameters of `he2rna`; the defaults are those of the comparison by :cite:t:`pizurica2024`.

    Attributes
    ----------
    hidden
        Width of the two hidden layers.
    dropout
        Dropout after each hidden layer.
    top_k
        Numbers of tokens to average, the highest of each gene; one is drawn for each training step, and predictions
        are the mean over all of them. A slide with fewer tokens averages those it has.
    standardize
        Standardize the tokens, and predict in units of each gene's training standard deviation from its mean;
        `False` reads and predicts raw values, as published.
    non_negative
        Raise predictions below 0 to 0, not in training. As published, and right for targets that cannot be negative
        (log expression); wrong for centered targets and for log risks, hence not the default.
    """

    hidden: int = 256
    dropout: float = 0.5
    top_k: Sequence[int] = (1, 2, 5, 10, 20, 50, 100)
    standardize: bool = True
    non_negative: bool = False


def _he2rna(state: Mapping[str, Tensor]) -> Tree:
    hidden, n_features, _ = sizes_of(state, "conv0.weight", 3)
    n_genes = sizes_of(state, "conv2.weight", 3)[0]
    tree = Tree(n_features, n_genes, {"hidden": hidden, "standardize": False, "non_negative": True})
    for ours, theirs in (("body.0", "conv0"), ("body.3", "conv1"), ("head.mean", "conv2")):
        tree.sources[f"{ours}.weight"] = ([f"{theirs}.weight"], without_kernel)
        tree.sources[f"{ours}.bias"] = ([f"{theirs}.bias"], only)
    return tree


@register(
    "he2rna",
    config=HE2RNAConfig,
    description="Multilayer perceptron on single tokens of a bag; mean of the highest scores of each gene",
    paper="schmauch2020",
    license_of_reference="GPL-3.0",
)
class HE2RNA(StandardizedBag):
    """A score for every token and gene; the slide's value is the mean of its highest scores."""

    published = Published("conv0.weight", _he2rna, FPKM_UQ)

    affine_read_out = False
    paper = Preset(
        {"hidden": 1024, "dropout": 0.25, "standardize": False, "non_negative": True},
        {"learning_rate": 3e-4, "patience": 50, "monitor": "correlation", "gradient_clip": 0.0},
    )
    small = {"hidden": 64, "dropout": 0.0}
    config: HE2RNAConfig

    def __init__(self, config: HE2RNAConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        if not config.top_k or min(config.top_k) < 1:
            raise ValueError(f"expected one or more positive numbers in top_k; found {config.top_k!r}")
        widths = (shape.width("tokens"), config.hidden, config.hidden)
        layers: list[nn.Module] = []
        for wide, narrow in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(config.dropout)]
        self.body = nn.Sequential(*layers)
        self.head = RegressionHead(config.hidden, shape.n_outputs, zero_init=config.standardize)

    def tokens(self, bag: Tensor) -> Tensor:
        """Hidden layers of each token (..., n_features)."""
        return self.body(super().tokens(bag))

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Leave the tokens (n, n_tokens, hidden) as they are: which of them count differs between genes."""
        return tokens

    def read_out(self, pooled: Tensor, mask: Tensor | None = None, genes: slice = slice(None)) -> Tensor:
        """Predict some genes (n, g), in the unit of the target, from the tokens (n, n_tokens, hidden)."""
        n, n_tokens, _ = pooled.shape
        if mask is None:
            mask = pooled.new_ones((n, n_tokens), dtype=torch.bool)
        top_k = list(self.config.top_k)
        if self.training:
            top_k = [top_k[int(torch.randint(len(top_k), ()))]]
        pooled = pooled.transpose(1, 2)
        parts = [
            mean_of_highest(torch.matmul(weight, pooled), mask, top_k)
            for weight in self.head.mean.weight[genes].split(max(_CHUNK // (n * n_tokens), 1))
        ]
        # The weights of the ranks sum to 1, so that the bias may as well be added to their mean.
        values = self.in_target_units(torch.cat(parts, dim=1) + self.head.mean.bias[genes], genes)
        return values.clamp_min(0) if self.config.non_negative and not self.training else values


def mean_of_highest(scores: Tensor, mask: Tensor, top_k: Sequence[int]) -> Tensor:
    """Mean of the `k` highest scores of each gene, averaged over several `k`.

    All `k` share one sort: the mean over them is a weighted sum of the ranks.

    Parameters
    ----------
    scores
        (n, n_genes, n_tokens).
    mask
        (n, n_tokens), true for the tokens there are.
    top_k
        Values of `k`; a slide with fewer tokens averages all of them.

    Returns
    -------
    (n, n_genes)
    """
    n_tokens = scores.shape[-1]
    n_valid = mask.sum(dim=1, keepdim=True).to(scores.dtype)
    depth = min(max(top_k), n_tokens)
    if min(top_k) >= n_tokens:
        share = mask / n_valid
        ranked = scores.masked_fill(~mask.unsqueeze(1), 0.0)
    else:
        # The lowest finite score: padding comes last and is weighted by zero.
        scores = scores.masked_fill(~mask.unsqueeze(1), torch.finfo(scores.dtype).min)
        ranked = scores.topk(depth, dim=-1).values if depth < n_tokens else scores.sort(dim=-1, descending=True).values
        limit = torch.minimum(scores.new_tensor(list(top_k)), n_valid).unsqueeze(-1)
        share = ((torch.arange(depth, device=scores.device) < limit) / limit).mean(dim=1)
    return torch.matmul(ranked, share.unsqueeze(-1)).squeeze(-1)
