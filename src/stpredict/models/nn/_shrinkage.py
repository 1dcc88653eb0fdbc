"""Pull predictions towards the mean, by as much as truth that they were not made from says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

#: A map that says nothing keeps its order, so that its correlation is defined and counted; it explains nothing then.
SMALLEST = 0.01
_LARGEST = 0.25  # variance of numbers between 0 and 1
_HALVINGS = 40


class Shrinkage(nn.Module):
    r"""Map a prediction :math:`m` to :math:`c + s (m - c)`, gene by gene, with a slope from 0.01 to 1.

    What is averaged over few spots carries their counting noise, and is bolder than it can know. The slope of the truth on
    such a prediction, by least squares within sections, is the share of it to be believed:

    .. math:: s = \frac{\sum_i (m_i - \bar m)(y_i - \bar y)}{\sum_i (m_i - \bar m)^2}

    With few spots it is noise as well, so that genes learn from each other, see :func:`pooled`. It is positive, so that the
    correlation of a gene within a section stays what it was.

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
    held_out: Tensor

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(n_genes))
        self.register_buffer("slope", torch.zeros(n_genes))
        self.register_buffer("held_out", torch.tensor(False))

    @property
    def known(self) -> bool:
        """Whether there are slopes."""
        return bool(self.slope.gt(0).all())

    @property
    def fitted_on(self) -> str:
        """Which spots the slopes are of."""
        return "held-out" if self.held_out else "training" if self.known else ""

    def forward(self, mean: Tensor, center: Tensor | None = None) -> Tensor:
        """Shrink predictions (n, n_genes), towards another center (n, n_genes) where one is given."""
        center = self.center if center is None else center
        return center + self.slope * (mean - center)

    def facts(self) -> dict[str, Any]:
        """Which spots the slopes are of, and quartiles of them over genes; nothing while they are unknown."""
        if not self.known:
            return {}
        quartiles = torch.quantile(
            self.slope.double(), torch.tensor([0.25, 0.5, 0.75], device=self.slope.device).double()
        )
        return {"shrinkage": {"fitted_on": self.fitted_on, "quartiles": [round(q, 3) for q in quartiles.tolist()]}}

    def fit(self, pairs: Iterable[tuple[Tensor, Tensor, Tensor]], fitted_on: Literal["held-out", "training"]) -> None:
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
            # On the CPU: not every accelerator knows double precision.
            x, y = ((values.float() - self.center).cpu().double() for values in (predicted, truth))
            for number in section.unique().tolist():
                rows = (section == number).cpu()
                a, b = x[rows], y[rows]
                part = torch.stack(
                    [torch.ones_like(a).sum(0), a.sum(0), b.sum(0), (a * b).sum(0), (a * a).sum(0), (b * b).sum(0)]
                )
                sums[number] = sums[number] + part if number in sums else part
        n, x, y, xy, xx, yy = torch.stack(list(sums.values())).unbind(1)
        shared, own, noise = (xy - x * y / n).sum(0), (xx - x * x / n).sum(0), (yy - y * y / n).sum(0)
        free = n.sum(0) - len(n)
        # Under no relation; a gene that was not seen among these spots says nothing.
        variance = torch.where((own > 0) & (noise > 0) & (free > 0), noise / (own * free), torch.inf)
        slope = shared / own.where(own > 0, 1.0)
        self.slope.copy_(pooled(slope, variance).clamp(SMALLEST, 1.0))
        self.held_out.fill_(fitted_on == "held-out")


def pooled(slope: Tensor, variance: Tensor) -> Tensor:
    r"""Pull noisy slopes towards each other, by empirical Bayes.

    Slopes of genes are taken for draws around :math:`\mu` with variance :math:`\tau^2`, seen with errors of known variance.
    Both come from the slopes: :math:`\mu` is the mean weighted by :math:`1 / (v_g + \tau^2)`, and :math:`\tau^2` such that the
    weighted squares about it sum to their expectation, the number of genes less 1 (Paule and Mandel). What is returned is
    the expectation given both, :math:`(s_g \tau^2 + \mu v_g) / (v_g + \tau^2)`.

    Parameters
    ----------
    slope, variance
        (n_genes,) slopes and variances of their errors, infinite where nothing is known.

    Returns
    -------
    (n_genes,) slopes; 0 where nothing is known of any.
    """
    known = variance.isfinite()
    if not known.any():
        return torch.zeros_like(slope)
    s, v = slope[known], variance[known]

    def mean_and_squares(spread: float) -> tuple[Tensor, Tensor]:
        weight = 1 / (v + spread)
        mean = (weight * s).sum() / weight.sum()
        return mean, (weight * (s - mean).square()).sum()

    low, high = 0.0, _LARGEST
    if mean_and_squares(low)[1] > len(s) - 1:
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if mean_and_squares(middle)[1] > len(s) - 1 else (low, middle)
    mean = mean_and_squares(low)[0]
    result = mean.expand(slope.shape).clone()
    result[known] = mean + low / (v + low) * (s - mean)
    return result
