"""Outcome of a patient from the graph of super-patches on the map of a slide."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.core._validate import check_positive
from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.base._slide_map import SlideMapPredictor
from stpredict.models.nn._graphs import GATConv, Graphs
from stpredict.models.nn._super_patches import SuperPatches, merge_cells, neighboring_cells

_KNOWN = 4096  # maps whose super-patches are remembered


@dataclass(frozen=True)
class SuperPatchesConfig:
    """Hyperparameters of `super_patches`.

    Attributes
    ----------
    shape
        Rows and columns of the maps; their product is the number of tokens.
    mask
        Whether the tissue is asked for as a channel. The graph is that of the tissue in any case.
    n_clinical
        Clinical covariates that join what is pooled.
    class_weights
        Weight of each of two classes in the cross-entropy; 1 each when empty.
    lattice
        `"square"` or `"hex"`: which cells touch.
    merge_within
        Root mean square difference of the channels, in their training standard deviations, up to which two neighboring
        super-patches become one.
    merge_rounds
        Rounds in which super-patches join in pairs: they have at most 2 to the power of it cells. 0 leaves the cells.
    n_layers, n_hidden, heads
        Layers of attention over the graph, their width, and their heads.
    dropout
        Share of the hidden units that is dropped in training.
    edge_dropout
        Share of the links that is dropped in training.
    """

    shape: tuple[int, int] = (8, 8)
    mask: bool = False
    n_clinical: int = 0
    class_weights: tuple[float, ...] = ()
    lattice: Literal["square", "hex"] = "square"
    merge_within: float = 0.75
    merge_rounds: int = 4
    n_layers: int = 2
    n_hidden: int = 16
    heads: int = 2
    dropout: float = 0.2
    edge_dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check what fits together."""
        check_positive(self.merge_within, "merge_within")
        if self.merge_rounds < 0 or self.n_layers < 1:
            raise ValueError(
                f"expected merge_rounds of at least 0 and n_layers of at least 1; found {self.merge_rounds} and {self.n_layers}"
            )
        if self.heads < 1 or self.n_hidden % self.heads:
            raise ValueError(f"expected n_hidden in multiples of heads={self.heads}; found {self.n_hidden}")


@register(
    "super_patches",
    config=SuperPatchesConfig,
    description="Attention over the graph of super-patches of a slide's map, for outcomes of patients",
    paper="gao2024",
    license_of_reference="Apache-2.0",
)
class SuperPatchesNetwork(SlideMapPredictor):
    """Cells of a map that touch and look alike are joined; attention along the graph of what is left, and its mean.

    A super-patch has the mean channels of its cells and the logarithm of their number, and counts by that number in the mean
    over the slide.
    """

    small: ClassVar = {"shape": (2, 4), "n_hidden": 8, "dropout": 0.0, "edge_dropout": 0.0, "merge_rounds": 1}
    paper = Preset(training={"learning_rate": 5e-4, "max_epochs": 800})

    config: SuperPatchesConfig

    def __init__(self, config: SuperPatchesConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        hidden = config.n_hidden
        self.first = nn.Linear(shape.width("tokens") + 1, hidden)
        self.convs = nn.ModuleList(
            GATConv(hidden, hidden // config.heads, config.heads) for _ in range(config.n_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(config.n_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(hidden + config.n_clinical, shape.n_outputs)
        self._known: dict[bytes, SuperPatches] = {}

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set before training; with other scales super-patches are others."""
        super().prepare(summary)
        self._known = {}

    def super_patches(self, cells: Tensor, tissue: Tensor) -> SuperPatches:
        """Super-patches of a slide, from its standardized cells (n_cells, d) and which of them (n_cells,) are on the tissue."""
        values, mask = cells.detach().float().cpu().numpy(), tissue.cpu().numpy()
        key = hashlib.sha256(repr(self.config.shape).encode() + mask.tobytes() + values.tobytes()).digest()
        if key not in self._known:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            pairs = neighboring_cells(mask.reshape(self.config.shape), self.config.lattice)
            self._known[key] = merge_cells(
                values[mask], pairs, within=self.config.merge_within, rounds=self.config.merge_rounds
            )
        return self._known[key]

    def graphs(self, batch: Batch) -> tuple[Tensor, Tensor, Graphs]:
        """Values (m, d + 1) and sizes (m,) of the super-patches of all slides, and their graphs."""
        cells, tissue = self.cells(batch)
        parts = [self.super_patches(own, on) for own, on in zip(cells, tissue, strict=True)]
        device = cells.device
        size = torch.from_numpy(np.concatenate([part.size for part in parts])).to(device)
        number = torch.tensor([len(part.size) for part in parts], device=device)
        start = (number.cumsum(0) - number).tolist()
        label = np.concatenate([part.label + first for part, first in zip(parts, start, strict=True)])
        index = torch.from_numpy(label).to(device)
        values = cells.new_zeros(len(size), cells.shape[2]).index_add(0, index, cells[tissue])
        weight = size.to(cells.dtype).unsqueeze(1)
        links = torch.from_numpy(np.concatenate([part.links for part in parts])).to(device)
        n_links = torch.tensor([len(part.links) for part in parts], device=device)
        return torch.cat([values / weight, weight.log2()], dim=1), weight, Graphs.of_rows(number, links, n_links)

    def forward(self, batch: Batch) -> Prediction:
        """Log risk or logit of each slide."""
        values, weight, graphs = self.graphs(batch)
        if self.training and self.config.edge_dropout > 0:
            kept = torch.rand(len(graphs.links), device=values.device) >= self.config.edge_dropout
            graphs = Graphs(graphs.links[kept], graphs.graph, graphs.size)
        hidden = self.first(values)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            hidden = hidden + self.dropout(F.elu(conv(norm(hidden), graphs)))
        total = hidden.new_zeros(len(batch), hidden.shape[1]).index_add(0, graphs.graph, hidden * weight)
        share = weight.new_zeros(len(batch), 1).index_add(0, graphs.graph, weight)
        pooled = total / share
        if self.config.n_clinical:
            pooled = torch.cat([pooled, batch["features"].to(pooled.dtype)], dim=1)
        return self.predicted(self.head(pooled))
