"""Hist2ST: convolutions within patches, attention over the spots of a section, and their neighborhood."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._section import PositionEmbedding, SectionPredictor, TransformerBlock
from stpredict.models.base._shape import Shape
from stpredict.models.nn._graph import mean_of_neighbors, spatial_neighbors

_CELL = 7  # pixels of the side of a square that the first convolution maps to one point


@dataclass(frozen=True)
class Hist2STConfig:
    """Hyperparameters of `hist2st`.

    Attributes
    ----------
    dim
        Width of a spot: of its flattened maps, of the attention and of the graph. A multiple of `side ** 2`.
    side
        Side of the maps of a patch, 16 at 112 pixels; those of patches of another size are averaged to it.
    channels
        Maps within the patch.
    kernel
        Side of the depth-wise convolutions, odd.
    mixers
        Blocks of convolutions.
    depth
        Blocks of attention.
    heads, dim_head
        Heads of the attention and their width.
    mlp_dim
        Width of the feed-forward layers.
    dropout
        Dropout of the first maps, and of both branches of the attention blocks.
    graph_depth
        Convolutions over the neighbors of each spot.
    neighbors
        Neighbors of a spot at most, within two pitches of the array. A spot without any is its own neighbor.
    lstm_layers
        Layers of the LSTM over the outputs of the graph convolutions.
    patch_um
        Side of the patch in µm.
    patch_px
        Side of the patch in pixels after resampling.
    symmetries
        Draw one of the eight right-angle rotations and reflections for each patch in training.
    stain_jitter
        Largest relative change of the amount of each stain of a patch in training; 0 for none.
    chunk
        Patches per step of the convolutions: memory grows with it. In training the batch norm sees one chunk.
    zinb
        Weight of the likelihood of the raw counts as zero-inflated negative binomial; 0 for none.
    views
        Augmented views that training averages and draws the prediction to; 0 for none. Each costs as much as a step
        without any.
    distill
        Weight of the distance to that average.
    """

    dim: int = 1024
    side: int = 16
    channels: int = 32
    kernel: int = 5
    mixers: int = 2
    depth: int = 8
    heads: int = 16
    dim_head: int = 64
    mlp_dim: int = 1024
    dropout: float = 0.2
    graph_depth: int = 4
    neighbors: int = 4
    lstm_layers: int = 2
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
        if self.side < 2 or self.dim < 1 or self.dim % self.side**2:
            raise ValueError(
                f"expected side of at least 2 and dim a multiple of its square; found side={self.side}, dim={self.dim}"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel; found kernel={self.kernel}")


@register(
    "hist2st",
    config=Hist2STConfig,
    description="Convolutions within patches, attention over a section, graph convolutions over neighboring spots",
    paper="zeng2022",
    license_of_reference="none",
)
class Hist2ST(SectionPredictor):
    """Mixing convolutions per patch, a transformer over the section, GraphSAGE over neighbors, an LSTM over its layers."""

    training_defaults = {
        "optimizer": "adam",
        "learning_rate": 1e-5,
        "weight_decay": 0.0,
        "max_epochs": 350,
        "patience": 30,
    }
    paper = Preset(training={"schedule": "step", "patience": 0, "gradient_clip": 0.0})
    small = {
        "dim": 64,
        "depth": 1,
        "heads": 2,
        "dim_head": 16,
        "mlp_dim": 64,
        "lstm_layers": 1,
        "graph_depth": 2,
        "side": 4,
        "mixers": 1,
        "patch_px": 32,
        "symmetries": False,
        "stain_jitter": 0.0,
        "dropout": 0.0,
        "views": 0,
    }

    config: Hist2STConfig

    def __init__(self, config: Hist2STConfig, shape: Shape) -> None:
        super().__init__(config, shape, n_hidden=config.dim)
        self.patch_embedding = nn.Conv2d(3, config.channels, _CELL, stride=_CELL)
        self.dropout = nn.Dropout(config.dropout)
        self.mixers = nn.Sequential(*(_Mixer(config.channels, config.kernel) for _ in range(config.mixers)))
        self.down = nn.Conv2d(config.channels, config.dim // config.side**2, 1)
        self.position_embedding = PositionEmbedding(config.dim)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(config.dim, config.heads, config.dim_head, config.mlp_dim, config.dropout)
                for _ in range(config.depth)
            )
        )
        self.graph = nn.ModuleList(_GraphSAGE(config.dim) for _ in range(config.graph_depth))
        self.lstm = nn.LSTM(config.dim, config.dim, config.lstm_layers)

    def embed(self, images: Tensor) -> Tensor:
        """Map standardized images (n, 3, h, w) to (n, dim)."""
        height, width = images.shape[2:]
        if min(height, width) < _CELL:
            images = F.adaptive_avg_pool2d(images, (max(height, _CELL), max(width, _CELL)))
        maps = F.adaptive_avg_pool2d(self.patch_embedding(images), self.config.side)
        return self.down(self.mixers(self.dropout(maps))).flatten(1)

    def relate(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Map the embedded patches (n, dim) of a section to (n, dim)."""
        values = self.blocks(embedded + self.position_embedding(positions))
        index, valid = spatial_neighbors(positions, self.config.neighbors)
        layers = []
        for convolve in self.graph:
            values = convolve(values, index, valid)
            layers.append(values)
        return self.lstm(torch.stack(layers))[0].mean(dim=0)


class _Mixer(nn.Module):
    """Two depth-wise convolutions with a residual, then a point-wise one."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        within = [
            layer
            for _ in range(2)
            for layer in (
                nn.Conv2d(channels, channels, kernel, padding="same", groups=channels, bias=False),
                nn.BatchNorm2d(channels),
                nn.GELU(),
            )
        ]
        self.within = nn.Sequential(*within)
        self.across = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GELU(), nn.BatchNorm2d(channels))

    def forward(self, maps: Tensor) -> Tensor:
        return self.across(self.within(maps) + maps)


class _GraphSAGE(nn.Module):
    """Mean of the neighbors, or the spot itself where it has none; linear map, ReLU, unit length."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lin = nn.Linear(dim, dim, bias=False)
        nn.init.xavier_uniform_(self.lin.weight)

    def forward(self, values: Tensor, index: Tensor, valid: Tensor) -> Tensor:
        mean = mean_of_neighbors(values, index, valid)
        mean = torch.where(valid.any(dim=1, keepdim=True), mean, values)
        return F.normalize(F.relu(self.lin(mean)), dim=1, eps=1e-6)
