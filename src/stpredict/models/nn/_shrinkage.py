"""Pull predictions towards the mean, by as much as truth that they were not made from says."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

#: A map that says nothing keeps its order, so that its correlation is defined and counted; it explains nothing then.
SMALLEST = 0.01


class Shrinkage(nn.Module):
    r"""Map a prediction :math:`m` to :math:`c + s (m - c)`, gene by gene, with a slope from 0.01 to 1.

    What is averaged over few spots carries their counting noise, and is bolder than it can know. The slope of the truth on
    such a prediction, by least squares within sections, is the share of it to be believed:

    .. math:: s = \frac{\sum_i (m_i - \bar m)(y_i - \bar y)}{\sum_i (m_i - \bar m)^2}

    It is positive, so that the correlation of a gene within a section stays what it was.

    Parameters
    ----------
    n_genes
        Number of genes.

    Attributes
    ----------
    center, slope
        (n_genes,) what predictions are pulled to, and how much of them stays; the slope is 0 until it is known.
    fitted_on
        `"held-out"` or `"training"` spots; empty until it is known.
    """

    center: Tensor
    slope: Tensor

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(n_genes))
        self.register_buffer("slope", torch.zeros(n_genes))
        self.fitted_on = ""

    @property
    def known(self) -> bool:
        """Whether there are slopes."""
        return bool(self.slope.gt(0).all())

    def forward(self, mean: Tensor, center: Tensor | None = None) -> Tensor:
        """Shrink predictions (n, n_genes), towards another center (n, n_genes) where one is given."""
        center = self.center if center is None else center
        return center + self.slope * (mean - center)

    def fit(self, pairs: Iterable[tuple[Tensor, Tensor, Tensor]], fitted_on: str) -> None:
        """Take the slopes of the truth on the predictions, both less their means in each section.

        Parameters
        ----------
        pairs
            Predictions (n, n_genes), truth (n, n_genes) that had no part in them, and section (n,), in as many parts as
            there are.
        fitted_on
            Which spots these are.
        """
        sums: dict[int, Tensor] = {}
        for predicted, truth, section in pairs:
            x, y = predicted.double() - self.center, truth.double() - self.center
            for number in section.unique().tolist():
                rows = section == number
                a, b = x[rows], y[rows]
                part = torch.stack([torch.ones_like(a).sum(0), a.sum(0), b.sum(0), (a * b).sum(0), (a * a).sum(0)])
                sums[number] = sums[number] + part if number in sums else part
        n, x, y, xy, xx = torch.stack(list(sums.values())).unbind(1)
        shared, own = (xy - x * y / n).sum(0), (xx - x * x / n).sum(0)
        slope = torch.where(own > 0, shared / own.where(own > 0, 1.0), 1.0)
        self.slope.copy_(slope.clamp(SMALLEST, 1.0))
        self.fitted_on = fitted_on
