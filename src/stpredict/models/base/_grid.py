"""What networks share that read a section as a grid of cells: rows to grids, and grids back to rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.core._cells import symmetries
from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._shape import Shape
from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._standardize import Standardize

_HEAD_STD = 0.005


@dataclass(frozen=True)
class Placement:
    """Where the rows of a batch lie on padded grids.

    Attributes
    ----------
    section, row, col
        (n,) int64: which grid of the batch each row belongs to, and its cell there.
    tissue
        (b, h, w) true where a cell has a row.
    extent
        (b, h, w) true inside the padded grid that each section would have alone; `None` where that is everywhere.
    """

    section: Tensor
    row: Tensor
    col: Tensor
    tissue: Tensor
    extent: Tensor | None

    def scatter(self, values: Tensor) -> Tensor:
        """Put the values (n, k) of the rows on grids (b, k, h, w), zero elsewhere."""
        grid = values.new_zeros((*self.tissue.shape, values.shape[1]))
        grid[self.section, self.row, self.col] = values
        grid = grid.permute(0, 3, 1, 2)
        # Convolutions on a CPU take half as long again where channels come last in memory.
        return grid.contiguous() if grid.device.type == "cpu" else grid

    def gather(self, grid: Tensor) -> Tensor:
        """Values (n, k) of grids (b, k, h, w) at the rows."""
        return grid.permute(0, 2, 3, 1)[self.section, self.row, self.col]


def place(section: Tensor, cell: Tensor, multiple: int) -> Placement:
    """Lay the rows of a batch on grids whose sides are multiples of some number.

    Each section is padded on its own: as many cells before as behind, the odd one behind (78 x 64 becomes 80 x 64 with
    one row of padding on either side). Sections that are smaller than the largest of the batch end there.

    Parameters
    ----------
    section
        (n,) any codes.
    cell
        (n, 2) row and column of each cell within its section, from 0.
    multiple
        Sides of the padded grids are multiples of it.

    Raises
    ------
    ValueError
        When a cell is negative, or two rows of a section lie in one cell.
    """
    codes, index = torch.unique(section, return_inverse=True)
    if bool((cell < 0).any()):
        raise ValueError("expected cells counted from 0; found a negative one; call stp.pp.grid")
    shape = _shapes(index, cell, len(codes))
    padded = -(-shape // multiple) * multiple
    height, width = padded.amax(dim=0).tolist()
    row, col = (cell + ((padded - shape) // 2)[index]).unbind(dim=1)
    tissue = torch.zeros((len(codes), height, width), dtype=torch.bool, device=section.device)
    tissue[index, row, col] = True
    if int(tissue.sum()) < len(section):
        _, first, count = torch.unique(
            torch.cat([index[:, None], cell], dim=1), dim=0, return_inverse=True, return_counts=True
        )
        i = int((count[first] > 1).nonzero()[0])
        raise ValueError(
            f"expected one observation in each cell of a section; found {int(count[first[i]])} in row "
            f"{int(cell[i, 0])}, column {int(cell[i, 1])} of a section; call stp.pp.grid"
        )
    extent = None
    if bool((padded != padded[:1]).any()):
        inside = [torch.arange(n, device=section.device) < padded[:, i, None] for i, n in enumerate((height, width))]
        extent = inside[0][:, :, None] & inside[1][:, None, :]
    return Placement(index, row, col, tissue, extent)


def _shapes(index: Tensor, cell: Tensor, n_sections: int) -> Tensor:
    """Rows and columns (b, 2) up to the last cell of each section."""
    last = cell.new_zeros((n_sections, 2))
    return last.scatter_reduce(0, index[:, None].expand_as(cell), cell, "amax") + 1


class GridPredictor(Predictor):
    """Base of networks on whole sections: rows become grids, the network works, its rows are gathered.

    A subclass defines `hidden` and passes the width of what it returns, which a linear head turns into genes; the head
    is applied to the rows alone, so that no grid of all genes is ever held. Its configuration has `levels` (sides of
    the grids are multiples of `2 ** (levels - 1)`), `lattice`, `standardize`, `augment`, `shuffle` and `loss_area`.

    Parameters
    ----------
    config
        The network's frozen dataclass of hyperparameters.
    shape
        Number of outputs, widths of the inputs, and genes.
    n_hidden
        Width of what `hidden` returns.
    """

    draws = "sections"
    per_prediction = 1
    needs = frozenset({"features", "cell"})

    def __init__(self, config: Any, shape: Shape, n_hidden: int) -> None:
        super().__init__(config, shape)
        self.standardize = Standardize(shape.width("features"))
        self.head = RegressionHead(n_hidden, shape.n_outputs, zero_init=False)
        if config.standardize:
            # Near the training mean, but not at 0: what `hidden` returns is positive, and the first step would then
            # move all weights of an output the same way.
            nn.init.normal_(self.head.mean.weight, std=_HEAD_STD)

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set before training."""
        if not self.config.standardize:
            return
        super().prepare(summary)

    def hidden(self, features: Tensor, tissue: Tensor, extent: Tensor | None = None) -> Tensor:
        """Map the features (b, d, h, w) to (b, n_hidden, h, w).

        Parameters
        ----------
        features
            Zero off tissue.
        tissue
            (b, 1, h, w), 1 on tissue and 0 elsewhere.
        extent
            (b, h, w) true inside the grid of each section, where sections of a batch differ in size. Nothing may pass
            from beyond it: a prediction must not depend on the other sections of the batch.
        """
        raise TypeError(f"{type(self).__name__} defines no hidden")

    def dense(self, features: Tensor, tissue: Tensor, extent: Tensor | None = None) -> Tensor:
        """Outputs (b, n_genes, h, w) of the head for every cell, before they are put into the unit of the target."""
        weight, bias = self.head.mean.weight, self.head.mean.bias
        return F.conv2d(self.hidden(features, tissue, extent), weight[:, :, None, None], bias)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch of whole sections."""
        self._check_shapes(batch.section, batch["cell"])
        cell = batch["cell"]
        if self.config.shuffle:
            cell = shuffled(batch["features"], batch.section, cell)
        if self.training and self.config.augment:
            cell = mirrored(batch.section, cell, self.config.lattice)
        where = place(batch.section, cell, 2 ** (self.config.levels - 1))
        grid = where.scatter(self.standardize(batch["features"]))
        tissue = where.tissue.unsqueeze(1)
        hidden = self.hidden(grid, tissue.to(grid.dtype), where.extent)
        prediction = self.head(where.gather(hidden), self.target_mean, self.target_std)
        prediction.extras["tissue"] = tissue
        if self.config.loss_area == "all":
            empty = ~where.tissue if where.extent is None else where.extent & ~where.tissue
            prediction.extras["background"] = hidden.permute(0, 2, 3, 1)[empty]
        return prediction

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Loss on tissue; where `loss_area="all"`, its mean with that of the other cells, whose target is 0."""
        parts = super().loss(prediction, batch)
        background = prediction.extras.get("background")
        if background is None:
            return parts
        if batch.measured("counts") is not None:
            raise ValueError(
                "expected loss_area='tissue' for counts, which have no rate where there is no tissue; found 'all'"
            )
        label = batch.measured("classes")
        if label is None and batch.kind is not None and not batch.kind.linear:
            raise ValueError(
                f"expected loss_area='tissue' for a target with a link, which has no value off tissue; found "
                f"{self.config.loss_area!r}"
            )
        n = len(prediction.mean) if label is None else int((label >= 0).sum())
        with torch.autocast(background.device.type, enabled=False):
            off_tissue = self._background_loss(background.float(), batch.weight, classes=label is not None)
            total = (n * parts["total"] + off_tissue) / (n + len(background))
        return {"total": total}

    def _background_loss(self, hidden: Tensor, counts_for: Tensor | None, *, classes: bool) -> Tensor:
        """Sum over cells of the loss of the outputs at `hidden` (m, n_hidden) against 0, averaged over the genes.

        Weighted by `counts_for` (n_genes,), how much each gene counts, where that is given.

        Squared errors of all genes follow from the second moments of `hidden`, without the outputs (m, n_genes).
        """
        weight, bias = self.head.mean.weight, self.head.mean.bias
        if classes:
            if self.n_outputs > 1:
                raise ValueError(
                    f"expected two classes for loss_area='all', where cells off tissue are in the negative one; found "
                    f"{self.n_outputs}; fit with loss_area='tissue'"
                )
            return F.softplus(F.linear(hidden, weight, bias + self.target_mean)).sum()
        shift = bias + self.target_mean / self.target_std
        if counts_for is not None:
            root = (counts_for / counts_for.mean()).sqrt()
            weight, shift = weight * root[:, None], shift * root
        squares = (weight @ (hidden.T @ hidden) * weight).sum()
        mixed = 2 * (shift @ (weight @ hidden.sum(dim=0)))
        return (squares + mixed + len(hidden) * shift.square().sum()) / self.n_outputs

    def _check_shapes(self, section: Tensor, cell: Tensor) -> None:
        """Raise where a section is so small that nothing is left of it at the last level."""
        codes, index = torch.unique(section, return_inverse=True)
        shape = _shapes(index, cell, len(codes))
        least = 2 ** (self.config.levels - 1)
        longer = shape.amax(dim=1)
        i = int(longer.argmin())
        side = int(longer[i])
        if side < least:
            rows, cols = shape[i].tolist()
            raise ValueError(
                f"expected grids with at least {least} cells along the longer side for levels={self.config.levels}; "
                f"found {rows} x {cols}; pass levels={max(side, 1).bit_length()} or less"
            )


def mirrored(section: Tensor, cell: Tensor, lattice: str) -> Tensor:
    """Draw a symmetry of the lattice for each section and apply it to its cells (n, 2).

    Those of a hexagonal lattice are limited to the four that keep rows as rows: the others lay a section askew. Whether
    rows and columns of square lattices are exchanged is drawn once for all, so that sections of one size remain so.
    """
    moves = symmetries(lattice)
    if lattice == "square" and bool(torch.randint(2, ())):
        moves = moves[4:]
    codes, index = torch.unique(section, return_inverse=True)
    drawn = torch.randint(4, (len(codes),)).tolist()
    moved = torch.empty_like(cell)
    for i, (n_rows, n_cols) in enumerate(_shapes(index, cell, len(codes)).tolist()):
        rows = index == i
        moved[rows], _ = moves[drawn[i]](cell[rows], (n_rows, n_cols))
    return moved


def shuffled(features: Tensor, section: Tensor, cell: Tensor) -> Tensor:
    """Exchange the cells (n, 2) among the rows of each section, always in the same way.

    The order is drawn from the features of a section and the order of its cells: neither the other sections of a batch
    nor the order of the rows change it.
    """
    codes, index = torch.unique(section, return_inverse=True)
    n_cols = int(cell[:, 1].max()) + 1
    n_cells = (int(cell[:, 0].max()) + 1) * n_cols
    in_order = torch.argsort(index * n_cells + cell[:, 0] * n_cols + cell[:, 1])
    first = torch.searchsorted(index[in_order], torch.arange(len(codes), device=index.device))
    rank = torch.arange(len(index), device=index.device) - first[index[in_order]]
    # Sums of the bits are exact, hence the same in any order.
    bits = features.contiguous().view(torch.int32).long().sum(dim=1)
    seed = torch.zeros(len(codes), dtype=torch.long, device=index.device).index_add_(0, index, bits)
    key = _mixed(seed[index[in_order]] + rank * _STEP)
    drawn = torch.argsort(key, stable=True)
    drawn = drawn[torch.argsort(index[in_order][drawn], stable=True)]
    exchanged = torch.empty_like(cell)
    exchanged[in_order] = cell[in_order[drawn]]
    return exchanged


_STEP = 0x9E3779B97F4A7C15 - 2**64
_MIX = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def _mixed(values: Tensor) -> Tensor:
    """Spread int64 values evenly: the finalizer of SplitMix64."""
    for bits, factor in zip((30, 27), _MIX, strict=True):
        values = (values ^ (values >> bits)) * factor
    return values ^ (values >> 31)
