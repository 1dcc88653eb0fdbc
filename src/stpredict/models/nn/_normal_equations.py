"""Normal equations of least squares, added up over blocks of rows, for any part of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Sums over rows about their mean, or about that of their section, in double precision.

    Attributes
    ----------
    n
        Number of rows.
    mean, target_mean
        Means (d,) and (g,) of all rows.
    size
        (d,) root of the mean square of the features as they are, not about a mean.
    square, cross, target_square
        Sums of products (d, d) of features, (d, g) of features and targets, and (g,) of squares of targets.
    """

    n: int
    mean: Tensor
    target_mean: Tensor
    size: Tensor
    square: Tensor
    cross: Tensor
    target_square: Tensor

    @classmethod
    def side_by_side(cls, parts: Sequence[Moments]) -> Moments:
        """Join the sums of the same rows with several groups of targets."""
        return parts[0]._replace(
            target_mean=torch.cat([part.target_mean for part in parts]),
            cross=torch.cat([part.cross for part in parts], dim=1),
            target_square=torch.cat([part.target_square for part in parts]),
        )

    def about(self, mean: Tensor, target_mean: Tensor) -> Moments:
        """The same sums about other points (d,) and (g,), where these are about the mean of all rows."""
        apart, target_apart = self.mean - mean, self.target_mean - target_mean
        return self._replace(
            square=self.square + self.n * torch.outer(apart, apart),
            cross=self.cross + self.n * torch.outer(apart, target_apart),
            target_square=self.target_square + self.n * target_apart.square(),
        )


class NormalEquations:
    """Sums of squares and products of features and targets by cells of rows.

    A cell is a set of rows that are always on the same side: an inner fold trains on the sum of some cells and is tried on
    the sum of others, so that rows are read once for all folds. What is kept does not grow with the rows but for the means of
    sections.

    Parameters
    ----------
    cell, section
        (n,) int64 codes of all rows, in the order in which they are added.
    center, target_center
        Points (d,) and (g,) near the means, about which is summed: sums about a point far away lose digits.
    features
        Sums over the same rows whose features were added: only targets are added here.
    """

    def __init__(
        self,
        cell: Tensor,
        section: Tensor,
        center: Tensor,
        target_center: Tensor,
        features: NormalEquations | None = None,
    ) -> None:
        self.center, self.target_center, self._known = center.double(), target_center.double(), features
        self._cell, self._n_done = cell, 0
        self.n_cells, n_sections = int(cell.max()) + 1, int(section.max()) + 1
        pairs, self._pair, self._count = (cell * n_sections + section).unique(return_inverse=True, return_counts=True)
        self._cell_of, self._section_of = pairs // n_sections, pairs % n_sections
        d, g = len(center), len(target_center)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=center.device)

        self._cross, self._target_square = zeros(self.n_cells, d, g), zeros(self.n_cells, g)
        self._target_sum = zeros(len(pairs), g)
        self._square: Tensor = zeros(self.n_cells, d, d) if features is None else features._square
        self._sum: Tensor = zeros(len(pairs), d) if features is None else features._sum

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.target_center)

    def add(self, features: Tensor, target: Tensor) -> None:
        """Add the next rows, features (m, d) and targets (m, g)."""
        rows = slice(self._n_done, self._n_done + len(features))
        self._n_done = rows.stop
        cells, order = self._cell[rows].sort(stable=True)
        pair = self._pair[rows][order]
        x = features[order].double().sub_(self.center)
        y = target[order].double().sub_(self.target_center)
        self._target_sum.index_add_(0, pair, y)
        if self._known is None:
            self._sum.index_add_(0, pair, x)
        found, n_rows = cells.unique_consecutive(return_counts=True)
        for cell, inputs, outcome in zip(
            found.tolist(), x.split(n_rows.tolist()), y.split(n_rows.tolist()), strict=True
        ):
            self._cross[cell].addmm_(inputs.T, outcome)
            self._target_square[cell] += outcome.square().sum(dim=0)
            if self._known is None:
                self._square[cell].addmm_(inputs.T, inputs)

    def moments(self, cells: Sequence[int], *, by_section: bool = False) -> Moments:
        """Sums over the rows of some cells, about the mean of all of them or about that of each section."""
        if self._n_done != len(self._cell):
            raise ValueError(f"expected all {len(self._cell)} rows to be added; found {self._n_done}")
        chosen = torch.tensor(list(cells), device=self._cell.device)
        pairs = torch.isin(self._cell_of, chosen)
        count = self._count[pairs].double()
        total, target_total = self._sum[pairs], self._target_sum[pairs]
        n = int(count.sum())
        mean, target_mean = total.sum(dim=0) / n, target_total.sum(dim=0) / n
        code = self._section_of[pairs] if by_section else torch.zeros_like(self._section_of[pairs])
        _, code = code.unique(return_inverse=True)

        def by_code(values: Tensor) -> Tensor:
            return values.new_zeros((int(code.max()) + 1, *values.shape[1:])).index_add_(0, code, values)

        root = by_code(count).sqrt()[:, None]
        level, target_level = by_code(total) / root, by_code(target_total) / root
        square, cross = self._square[chosen[0]].clone(), self._cross[chosen[0]].clone()
        for cell in chosen[1:]:
            square += self._square[cell]
            cross += self._cross[cell]
        size = square.diagonal() / n + 2 * self.center * mean + self.center.square()
        return Moments(
            n,
            self.center + mean,
            self.target_center + target_mean,
            size.clamp_min(0).sqrt(),
            square.addmm_(level.T, level, alpha=-1),
            cross.addmm_(level.T, target_level, alpha=-1),
            (self._target_square[chosen].sum(dim=0) - target_level.square().sum(dim=0)).clamp_min(0),
        )


def cells_of(folds: Sequence[tuple[Tensor, Tensor]], n: int) -> tuple[Tensor, list[tuple[list[int], list[int]]]]:
    """Cells (n,) of rows that are on the same side in all folds, and the cells of both sides of every fold.

    Parameters
    ----------
    folds
        Masks (n,) of what is trained on and what is held out.
    n
        Number of rows.
    """
    code = torch.zeros(n, dtype=torch.int64)
    for number, (train, held) in enumerate(folds):
        code += (train.cpu().long() << 2 * number) + (held.cpu().long() << 2 * number + 1)
    found, cell = code.unique(return_inverse=True)
    sides = [
        (
            ((found >> 2 * number) & 1).nonzero().flatten().tolist(),
            ((found >> 2 * number + 1) & 1).nonzero().flatten().tolist(),
        )
        for number in range(len(folds))
    ]
    return cell, sides
