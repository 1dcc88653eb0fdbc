"""THItoGene: dynamic convolution and capsules for each patch, a transformer and graph attention over the section."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models._histogene import check_side
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._section import PositionEmbedding, SectionPredictor, TransformerBlock
from stpredict.models.base._shape import Shape
from stpredict.models.nn._capsules import CapsuleEncoder, DynamicConv2d
from stpredict.models.nn._graph import spatial_neighbors
from stpredict.models.nn._graph_attention import GraphAttention

_CHANNELS, _STRIDE = 16, 4


@dataclass(frozen=True)
class THItoGeneConfig:
    """Hyperparameters of `thitogene`.

    Attributes
    ----------
    capsules, dim_capsule
        Number and width of the capsules that describe a patch; the position is two more, and together they are what
        the transformer reads.
    n_kernels
        Kernels that the dynamic convolution mixes.
    depth
        Blocks of the transformer.
    heads, dim_head
        Heads of its attention and their width.
    mlp_dim
        Width of its feed-forward layers.
    graph_heads, graph_dim
        Heads of the first layer of graph attention and their width.
    graph_outputs
        Width of the second layer, which has one head.
    graph_slope
        Slope of the LeakyReLU of the graph attention below 0.
    neighbors
        Nearest spots, at most, that a spot attends to beside itself; none farther than two pitches of the array.
    hidden
        Width of the layer before the genes.
    dropout
        Dropout of the spots before the transformer, of both branches of its blocks, and of inputs and weights of the graph
        attention.
    patch_um
        Side of the patch in µm.
    patch_px
        Side of the patch in pixels after resampling, at least 4.
    symmetries
        Draw one of the eight right-angle rotations and reflections for each patch in training.
    stain_jitter
        Largest relative change, and largest shift, of the optical density of each stain of a patch in training.
    chunk
        Patches that go through the capsules at once.
    zinb
        Weight of the likelihood of the raw counts as zero-inflated negative binomial; 0 for none.
    views
        Augmented views that training averages and draws the prediction to; 0 for none.
    distill
        Weight of the distance to that average.
    """

    capsules: int = 20
    dim_capsule: int = 64
    n_kernels: int = 4
    depth: int = 4
    heads: int = 16
    dim_head: int = 64
    mlp_dim: int = 2048
    graph_heads: int = 8
    graph_dim: int = 1024
    graph_outputs: int = 512
    graph_slope: float = 0.01
    neighbors: int = 4
    hidden: int = 1024
    dropout: float = 0.2
    patch_um: float = 76.8
    patch_px: int = 112
    symmetries: bool = True
    stain_jitter: float = 0.05
    chunk: int = 256
    zinb: float = 0.0
    views: int = 0
    distill: float = 0.5


@register(
    "thitogene",
    config=THItoGeneConfig,
    description="Dynamic convolution and capsules for each patch, a transformer and graph attention over the section",
    paper="jia2024",
    license_of_reference="none",
)
class THItoGene(SectionPredictor):
    """Capsules of a patch and of its position, a transformer over the section, attention over neighboring spots."""

    training_defaults = {
        "optimizer": "adam",
        "learning_rate": 1e-5,
        "weight_decay": 0.0,
        "max_epochs": 300,
        "patience": 30,
    }
    paper = Preset(training={"patience": 0, "gradient_clip": 0.0})
    # Its graph attention has no way around it: random spots with neighbors come out alike.
    small = {
        "capsules": 4,
        "dim_capsule": 16,
        "depth": 1,
        "heads": 2,
        "dim_head": 16,
        "mlp_dim": 64,
        "graph_heads": 2,
        "graph_dim": 32,
        "graph_outputs": 32,
        "hidden": 64,
        "neighbors": 0,
        "patch_px": 32,
        "symmetries": False,
        "stain_jitter": 0.0,
        "dropout": 0.0,
        "views": 0,
    }

    config: THItoGeneConfig

    def __init__(self, config: THItoGeneConfig, shape: Shape) -> None:
        if config.patch_px < _STRIDE:
            raise ValueError(f"expected patch_px of at least {_STRIDE}; found {config.patch_px}; take larger patches")
        super().__init__(config, shape, n_hidden=config.hidden)
        dim = (config.capsules + 2) * config.dim_capsule
        self.convolution = DynamicConv2d(3, _CHANNELS, _STRIDE, _STRIDE, n_kernels=config.n_kernels)
        self.capsules = CapsuleEncoder(_CHANNELS, config.patch_px // _STRIDE, config.capsules, config.dim_capsule)
        self.position_embedding = PositionEmbedding(2 * config.dim_capsule)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.heads, config.dim_head, config.mlp_dim, config.dropout)
            for _ in range(config.depth)
        )
        slope, dropout = config.graph_slope, config.dropout
        self.over_neighbors = GraphAttention(dim, config.graph_dim, config.graph_heads, slope=slope, dropout=dropout)
        n_outputs = config.graph_heads * config.graph_dim
        self.over_heads = GraphAttention(n_outputs, config.graph_outputs, slope=slope, dropout=dropout)
        self.hidden = nn.Sequential(nn.Linear(config.graph_outputs, config.hidden), nn.ReLU())

    def embed(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to their capsules side by side (n, capsules * dim_capsule)."""
        check_side(images, self.config.patch_px)
        return self.capsules(F.relu(self.convolution(images))).flatten(1)

    def relate(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Map the capsules of all spots of a section to (n, hidden)."""
        index, valid = spatial_neighbors(positions, self.config.neighbors)
        values = self.dropout(torch.cat([embedded, self.position_embedding(positions)], dim=1))
        for block in self.blocks:
            values = block(values)
        values = F.elu(self.over_neighbors(self.dropout(values), index, valid))
        values = F.elu(self.over_heads(self.dropout(values), index, valid))
        return self.hidden(values)
