"""Outputs that stay above the lowest mean value there is."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AboveLowest(nn.Module):
    r"""Bend outputs, so that no mean residual falls below that of a rate of 0.

    A Pearson residual of a gene that is not expressed is :math:`-g`, where :math:`g` is the mean residual per relative change
    of its rate (:func:`stpredict.metrics.pearson_residuals`). A straight line goes below that, and it is too flat where the
    gene is high: what tissue does to rates multiplies. An output :math:`u` is therefore taken for a shift of the *root* of the
    rate, of which a residual is the first-order term,

    .. math:: z = g \left[\left(1 + \frac{u}{2 g}\right)^2 - 1\right] = u + \frac{u^2}{4 g}, \qquad u \geq -2 g,

    and small outputs stay as they are. Values without a lowest are returned as they came.

    Parameters
    ----------
    n_outputs
        Number of outputs.
    """

    curvature: Tensor

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.register_buffer("curvature", torch.zeros(n_outputs))  # 1 / 4 g; 0 where there is no lowest

    def take(self, lowest: Tensor | None) -> None:
        """Take the lowest mean value of each output (n_outputs,), below 0; infinite where there is none."""
        if lowest is not None:
            self.curvature.copy_(-0.25 / lowest)

    def forward(self, outputs: Tensor) -> Tensor:
        """Mean values (n, n_outputs) of outputs (n, n_outputs)."""
        curvature = self.curvature.to(outputs.dtype)
        above = torch.maximum(outputs, -0.5 / curvature)  # minus infinity where nothing is bent
        return above + curvature * above.square()

    def shift(self, outputs: Tensor, mean: Tensor) -> Tensor:
        """What to add to outputs (n, n_outputs) so that their values have a mean (n_outputs,); 0 where nothing is bent."""
        return self.shift_of(outputs.mean(dim=0), outputs.var(dim=0, correction=0), mean)

    def shift_of(self, level: Tensor, variance: Tensor, mean: Tensor) -> Tensor:
        """The same for outputs of which the mean and the variance (n_outputs,) are known."""
        curvature = self.curvature.to(level.dtype)
        # The mean of a square is the square of the mean and the variance; `wanted` is the mean of the root that is left.
        wanted = (1 + 4 * curvature * mean - (2 * curvature).square() * variance).clamp_min(0).sqrt()
        shift = (wanted - (1 + 2 * curvature * level)) / (2 * curvature)
        return torch.where(curvature > 0, shift, torch.zeros_like(shift))
