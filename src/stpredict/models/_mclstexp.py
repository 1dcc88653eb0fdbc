"""mclSTExp: contrastive embedding of images and of expression in its neighborhood; retrieval of training spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stpredict.core._validate import check_positive
from stpredict.models.base._batch import Batch
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._retrieval import ProjectionHead, RetrievalPredictor, in_chunks
from stpredict.models.base._section import PositionEmbedding, TransformerBlock
from stpredict.models.base._shape import Shape
from stpredict.models.nn._graph import spatial_neighbors

_REACH = 2.0  # pitches of the array: the two nearest rings, and nothing from the other side of a hole
_NEIGHBORHOODS = 512  # that go through the transformer at once


@dataclass(frozen=True)
class MclSTExpConfig:
    """Hyperparameters of `mclstexp`.

    Attributes
    ----------
    image_encoder
        `"densenet121"` or `"resnet50"` on patches, end to end, or `"features"`: image features as they are.
    weights
        File with torchvision's ImageNet weights of the image encoder; `None` starts from random weights.
    patch_um
        Side of the patch in µm.
    patch_px
        Side of the patch in pixels after resampling.
    symmetries
        Draw one of the eight right-angle rotations and reflections for each patch in training.
    stain_jitter
        Largest relative change of the optical density of each stain in training.
    chunk
        Patches per step of the image encoder; where a section has more, training computes activations twice instead of
        keeping them.
    n_neighbors
        Spots around each that the transformer reads with it: 12 are those within two steps on a square lattice, and the
        two nearest rings on a hexagonal one.
    width
        Width of the transformer; 0 is the number of genes, as published.
    depth
        Transformer blocks.
    heads, dim_head
        Attention heads and their width.
    n_embedding
        Width of the common space.
    dropout
        Dropout of the projection heads.
    temperature
        What products of embeddings are divided by in the loss, and in the weights by similarity. `None` is 0.1 for
        embeddings of length 1, and the published 1 for embeddings as they are.
    k
        Training spots that a prediction averages.
    weighting
        `"inverse_distance"`: the inverse square. `"similarity"`: softmax of the logits. `"mean"`: all alike.
    normalize
        Embeddings of length 1: one metric in loss, retrieval and weights. `False` has three, as published.
    same_patient
        Whether to look up spots of the query's own patient as well, where these were in training.
    shrink
        Pull what is found towards the mean, gene by gene, by as much as held-out spots say: an average of few spots holds
        their counting noise. `False` returns the average, as published.
    """

    image_encoder: Literal["densenet121", "resnet50", "features"] = "densenet121"
    weights: str | None = None
    patch_um: float = 112.0
    patch_px: int = 224
    symmetries: bool = True
    stain_jitter: float = 0.05
    chunk: int = 64
    n_neighbors: int = 12
    width: int = 0
    depth: int = 2
    heads: int = 8
    dim_head: int = 64
    n_embedding: int = 256
    dropout: float = 0.0
    temperature: float | None = None
    k: int = 200
    weighting: Literal["inverse_distance", "similarity", "mean"] = "inverse_distance"
    normalize: bool = True
    same_patient: bool = False
    shrink: bool = True


class OffsetEmbedding(PositionEmbedding):
    """Learned embedding of where a spot lies from another, in µm: the same anywhere in a section."""

    def forward(self, positions: Tensor) -> Tensor:
        """Embed offsets (..., 2) to (..., n_outputs)."""
        phase = (positions.unsqueeze(-1) * self.frequency).flatten(-2)
        return self.net(torch.cat([phase.sin(), phase.cos()], dim=-1))


@register(
    "mclstexp",
    config=MclSTExpConfig,
    description="Contrastive embedding of images and of expression among its neighbors; weighted nearest training spots",
    paper="min2024",
    license_of_reference="none",
)
class MclSTExp(RetrievalPredictor):
    """Image encoder and projection head against a transformer over the neighborhood of each spot, and its projection head.

    A spot is embedded from itself and its neighbors in its own section, whatever else is in the batch. Spots of one
    section are told apart from each other.
    """

    draws = "sections"
    several_sections = False
    needs = frozenset({"patches", "positions"})
    bank_reads = frozenset({"positions"})
    training_defaults = {
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 1e-3,
        "max_epochs": 90,
        "patience": 15,
    }
    paper = Preset({"normalize": False, "shrink": False}, {"patience": 0, "gradient_clip": 0.0})
    small = {"image_encoder": "features", "k": 3, "width": 16, "depth": 1, "heads": 2, "dim_head": 16}

    def __init__(self, config: MclSTExpConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        for name in ("n_neighbors", "depth", "heads", "dim_head"):
            check_positive(getattr(config, name), name)
        width = config.width or shape.n_outputs
        self.spot_input = nn.Linear(shape.n_outputs, width) if config.width else nn.Identity()
        self.spot_offset = OffsetEmbedding(width)
        self.spot_encoder = nn.Sequential(
            *(TransformerBlock(width, config.heads, config.dim_head, width, dropout=0.0) for _ in range(config.depth))
        )
        self.spot_projection = ProjectionHead(width, config.n_embedding, config.dropout)

    def embed_expression(self, batch: Batch, expression: Tensor) -> Tensor:
        """Embed the expression (n, n_genes) of each spot among those around it in its section."""
        positions, values = batch["positions"], self.spot_input(expression)
        members = neighborhoods(positions, batch.section, self.config.n_neighbors)

        def embed(index: Tensor) -> Tensor:
            offsets = positions[index] - positions[index[:, :1]]
            return self.spot_projection(self.spot_encoder(values[index] + self.spot_offset(offsets))[:, 0])

        recompute = self.training and torch.is_grad_enabled()
        return in_chunks(embed, members, _NEIGHBORHOODS, recompute=recompute)


@torch.no_grad()
def neighborhoods(positions: Tensor, section: Tensor, n_neighbors: int) -> Tensor:
    """Find the spots around each in its own section; the spot itself stands in for neighbors that there are not.

    Parameters
    ----------
    positions
        (n, 2) in µm.
    section
        (n,) number of the section.
    n_neighbors
        Spots around each.

    Returns
    -------
    (n, n_neighbors + 1) int64, the spot itself first.
    """
    own = torch.arange(len(positions), device=positions.device)
    members = own[:, None].repeat(1, n_neighbors + 1)
    for number in section.unique():
        rows = own[section == number]
        index, valid = spatial_neighbors(positions[rows], n_neighbors, reach=_REACH)
        around = torch.where(valid, rows[index], rows[:, None])
        members[rows, 1 : 1 + around.shape[1]] = around
    return members
