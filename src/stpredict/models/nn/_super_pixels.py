"""The network of iStar: from the features of one place to expression there."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE, _FLOOR = 0.1, 0.01


class SuperPixelNet(nn.Module):
    """Linear layers with leaky units, and an output that is never below 0 :cite:p:`zhang2024istar`.

    602,856 parameters from 579 features to 1,000 genes; keys `net_lat.{i}.linear` and `net_out.linear`, as published.

    Parameters
    ----------
    n_features
        Number of features.
    n_genes
        Number of genes.
    hidden
        Width of the hidden layers.
    depth
        Number of hidden layers.
    """

    def __init__(self, n_features: int, n_genes: int, hidden: int = 256, depth: int = 4) -> None:
        super().__init__()
        widths = [n_features] + [hidden] * depth
        self.net_lat = nn.Sequential(*(_Layer(*pair) for pair in zip(widths[:-1], widths[1:], strict=True)))
        self.net_out = _Output(widths[-1], n_genes)

    def forward(self, features: Tensor) -> Tensor:
        """Expression (..., n_genes), at least 0, of features (..., n_features)."""
        found: Tensor = self.net_out(self.net_lat(features))
        return found


class _Layer(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)

    def forward(self, values: Tensor) -> Tensor:
        return F.leaky_relu(self.linear(values), _SLOPE)


class _Output(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)

    def forward(self, values: Tensor) -> Tensor:
        # Single precision rounds the sum of -0.01 and 0.01 to a little below 0.
        return (F.elu(self.linear(values), alpha=_FLOOR) + _FLOOR).clamp_min(0)
