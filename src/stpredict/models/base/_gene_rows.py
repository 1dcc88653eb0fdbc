"""What networks share that know genes by the rows of a table, and predict others than those they were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from stpredict.models.base._batch import Prediction
from stpredict.models.base._shape import Panel, Shape
from stpredict.models.base._shrinking import ShrinkingPredictor
from stpredict.models.nn._standardize import Standardize

_RIDGE = 1.0
if TYPE_CHECKING:
    _Base = ShrinkingPredictor
else:
    _Base = object


class ReadsGeneRows(_Base):
    """Rows of the panel, and level and spread of any gene: for classes that inherit from :class:`ShrinkingPredictor` as well."""

    table: Tensor
    level: Tensor

    def make_gene_rows(self, shape: Shape) -> None:
        """Keep the table of the panel (n_genes, d), zeros where none was given yet."""
        rows = shape.genes.tables.get("gene_table")
        width = shape.width("gene_table") if rows is None else rows.shape[1]
        table = torch.zeros(shape.n_outputs, width) if rows is None else torch.as_tensor(rows, dtype=torch.float32)
        self.register_buffer("table", table.clone())
        self.register_buffer("level", torch.zeros(width + 1, 2))
        self.of_genes = Standardize(width, of="gene_table")

    def take_levels(self, genes: Tensor | None = None) -> None:
        """Tell level and spread of genes from their rows, by a ridge on those of the panel, or some of them (k,)."""
        rows = self._with_one(self.table).double()
        known = torch.stack([self.target_mean, self.target_std.log()], dim=1).double()
        if genes is not None:
            rows, known = rows[genes], known[genes]
        middle = known.mean(dim=0)
        penalty = _RIDGE * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        level = torch.linalg.solve(rows.T @ rows + penalty, rows.T @ (known - middle))
        level[-1] += middle
        self.level.copy_(level)

    def levels(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Level and spread (g,) of genes that their rows (g, d) tell of."""
        mean, log_std = (self._with_one(rows) @ self.level).unbind(dim=1)
        return mean, log_std.exp()

    def rows_of(self, genes: Panel) -> Tensor:
        """Rows (g, d) of genes."""
        return torch.as_tensor(genes.tables["gene_table"]).to(self.table)

    def place_in_panel(self, genes: Panel) -> Tensor:
        """Number (g,) of genes among those of the training, -1 for others."""
        known = {name: number for number, name in enumerate(self.shape.genes.names)}
        return torch.tensor([known.get(name, -1) for name in genes.names], device=self.table.device)

    def in_units(self, values: Tensor, genes: Panel, slope: Tensor | None = None) -> Prediction:
        """What standardized predictions (n, g) of genes are in the unit of the target, shrunk where it is known by how much.

        Genes that are not of the panel have level and spread by their rows, and the mean of the slopes of the panel, or `slope`.
        """
        mean, std = self.levels(self.rows_of(genes))
        at = self.place_in_panel(genes)
        mean = torch.where(at < 0, mean, self.target_mean[at])
        found = self.clamped(mean + torch.where(at < 0, std, self.target_std[at]) * values)
        if not self.shrinkage.known:
            return Prediction(found)
        slope = self.shrinkage.slope.mean() if slope is None else slope
        slope = torch.where(at < 0, slope, self.shrinkage.slope[at])
        center = torch.where(at < 0, mean, self.shrinkage.center[at])
        return Prediction(center + slope * (found - center))

    def clamped(self, mean: Tensor) -> Tensor:
        """Values that the target can have: all of them, unless a network knows better."""
        return mean

    def _with_one(self, table: Tensor) -> Tensor:
        return F.pad(self.of_genes(table), (0, 1), value=1.0)
