"""HGGEP: gradient-enhanced convolutions, attention per stage, and a hypergraph over the spots of a section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._section import PositionEmbedding, SectionPredictor, TransformerBlock
from stpredict.models.base._shape import Shape
from stpredict.models.nn._batch_norm import BatchNorm2d
from stpredict.models.nn._graph import HypergraphConv, hypergraph
from stpredict.models.nn._hggep_blocks import CBAM, GradientEnhancement
from stpredict.models.nn._shufflenet import ShuffleNet

# Of each stage that is read: its number among those of the backbone, and the side of its maps at 112 pixels.
_STAGES = {"paper": ((0, 8), (1, 4), (2, 4)), "code": ((1, 4), (2, 4), (2, 1))}
_MULTIPLE = 64  # of `dim`: a map of 8 x 8 pixels has at least one channel


@dataclass(frozen=True)
class HGGEPConfig:
    """Hyperparameters of `hggep`.

    Attributes
    ----------
    dim
        Width of a spot in each branch; a multiple of 64 and of `heads`.
    heads
        Heads of each attention; a head is `dim / heads` wide.
    depth
        Attention blocks of each branch.
    mlp_dim
        Width of the feed-forward layer of a block.
    dropout
        Dropout in the attention blocks.
    neighbors
        Spots that share a hyperedge with a spot, beside itself.
    hypergraph_hidden
        Width between the two hypergraph convolutions.
    hypergraph_dropout
        Dropout between them.
    lstm_layers
        Layers of the LSTM over the branches.
    theta
        Share of central differences in the gradient enhancement.
    stages
        What the branches read. `"paper"`: the maps of the third, fourth and fifth stage of the backbone. `"code"`: those
        of the fourth and the fifth, and the maximum of the fifth.
    weights
        File with torchvision's ImageNet weights of ShuffleNetV2 x0.5; `None` starts from random weights.
    patch_um
        Side of the patch in µm.
    patch_px
        Side of the patch in pixels after resampling.
    symmetries
        Draw one of the eight right-angle rotations and reflections for each patch in training.
    stain_jitter
        Spread of the random scale and shift of each stain of a patch in training.
    chunk
        Patches per step of the convolutions: memory grows with it.
    zinb
        Weight of the likelihood of the raw counts; 0 does without counts.
    views
        Augmented views of the section whose weighted mean the prediction is drawn to in training; 0 for none. Every
        view costs as much as a step without any.
    distill
        Weight of the squared distance to that mean.
    """

    dim: int = 1024
    heads: int = 8
    depth: int = 4
    mlp_dim: int = 1024
    dropout: float = 0.2
    neighbors: int = 3
    hypergraph_hidden: int = 512
    hypergraph_dropout: float = 0.5
    lstm_layers: int = 4
    theta: float = 0.7
    stages: Literal["paper", "code"] = "paper"
    weights: str | None = None
    patch_um: float = 76.8
    patch_px: int = 112
    symmetries: bool = True
    stain_jitter: float = 0.05
    chunk: int = 256
    zinb: float = 0.25
    views: int = 5
    distill: float = 0.5

    def __post_init__(self) -> None:
        """Check what fits together."""
        if self.dim % _MULTIPLE or self.dim % self.heads:
            raise ValueError(
                f"expected dim to be a multiple of {_MULTIPLE} and of heads; found dim={self.dim}, heads={self.heads}"
            )
        if self.stages not in _STAGES:
            raise ValueError(f"expected stages among {', '.join(_STAGES)}; found {self.stages!r}")


@register(
    "hggep",
    config=HGGEPConfig,
    description="Gradient-enhanced convolutions, attention per stage and a hypergraph over the spots of a section",
    paper="li2024",
    license_of_reference="MIT",
)
class HGGEP(SectionPredictor):
    """Three stages of a backbone, each with attention over the spots; a hypergraph over their sum; an LSTM over all."""

    training_defaults = {
        "optimizer": "adam",
        "learning_rate": 1e-5,
        "weight_decay": 0.0,
        "max_epochs": 400,
        "patience": 30,
    }
    paper = Preset(training={"patience": 400, "monitor": "correlation", "gradient_clip": 0.0})
    small = {
        "dim": 64,
        "depth": 1,
        "heads": 2,
        "mlp_dim": 64,
        "lstm_layers": 1,
        "hypergraph_hidden": 32,
        "hypergraph_dropout": 0.0,
        "patch_px": 32,
        "symmetries": False,
        "stain_jitter": 0.0,
        "dropout": 0.0,
        "views": 0,
    }

    config: HGGEPConfig

    def __init__(self, config: HGGEPConfig, shape: Shape) -> None:
        super().__init__(config, shape, n_hidden=config.dim)
        self.gradient = GradientEnhancement(config.theta)
        self.backbone = ShuffleNet()
        self.levels = nn.ModuleList(
            _Stage(self.backbone.n_outputs[number], side, config.dim) for number, side in _STAGES[config.stages]
        )
        self.place = PositionEmbedding(config.dim)
        block = (config.dim, config.heads, config.dim // config.heads, config.mlp_dim, config.dropout)
        self.attention = nn.ModuleList(
            nn.Sequential(*(TransformerBlock(*block) for _ in range(config.depth))) for _ in self.levels
        )
        self.hypergraph = _HypergraphNet(config.dim, config.hypergraph_hidden, config.hypergraph_dropout)
        self.lstm = nn.LSTM(config.dim, config.dim, config.lstm_layers, batch_first=True)

    def load_initial_weights(self) -> None:
        """Start the backbone from `config.weights`."""
        if self.config.weights is not None:
            self.backbone.load_imagenet(self.config.weights)

    def embed(self, images: Tensor) -> Tensor:
        """Vectors of all stages (n, 3 dim) of standardized images (n, 3, h, w)."""
        maps = self.backbone(self.gradient(images))
        read = (maps[number] for number, _ in _STAGES[self.config.stages])
        return torch.cat([stage(values) for stage, values in zip(self.levels, read, strict=True)], dim=1)

    def relate(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Mix the spots of a section within each stage, then over a hypergraph, then the stages."""
        place = self.place(positions)
        parts = embedded.unflatten(1, (len(self.levels), -1)).unbind(dim=1)
        branches = [attention(part + place) for attention, part in zip(self.attention, parts, strict=True)]
        total = torch.stack(branches).sum(dim=0)
        last = total + self.hypergraph(total, self.hyperedges(total, positions))
        return self.lstm(torch.stack([*branches, last], dim=1))[0].mean(dim=1)

    def hyperedges(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """Members (n, neighbors + 1) of the hyperedge of each spot: itself and the nearest in look and place."""
        return hypergraph(hidden.detach(), positions, self.config.neighbors)


class _Stage(nn.Module):
    """Maps of one stage to one vector per image; averaged to the side they have at 112 pixels, whatever the patch.

    With a side of 1 their maximum is read.
    """

    def __init__(self, n_channels: int, side: int, n_outputs: int) -> None:
        super().__init__()
        self.side = side
        self.gate = CBAM(n_channels)
        self.norm = BatchNorm2d(n_channels)
        self.project = nn.Conv2d(n_channels, n_outputs // side**2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        if self.side == 1:
            maps = maps.amax(dim=(2, 3), keepdim=True)
        maps = self.project(self.norm(self.gate(maps)))
        return F.adaptive_avg_pool2d(maps, self.side).flatten(1)


class _HypergraphNet(nn.Module):
    """Two hypergraph convolutions with ReLU, norm and dropout between them."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = HypergraphConv(dim, hidden)
        self.between = nn.Sequential(nn.ReLU(), nn.LayerNorm(hidden), nn.Dropout(dropout))
        self.conv2 = HypergraphConv(hidden, dim)

    def forward(self, values: Tensor, members: Tensor) -> Tensor:
        return self.conv2(self.between(self.conv1(values, members)), members)
