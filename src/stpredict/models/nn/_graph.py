"""Neighbors of spots, hypergraphs over them, and what networks compute along these: a few tensor operations each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_CHUNK = 1024  # rows of a distance matrix that are held at once
# Equally near neighbors, the rule on a lattice, are told apart by their direction: by their place among the rows, the
# choice would change with the order of the spots.
_DIRECTION = (0.8310, 0.5563)
_TIE = 1e-6
_SLACK = 1.001  # positions are rounded


def nearest(points: Tensor, k: int, *, chunk: int = _CHUNK) -> tuple[Tensor, Tensor]:
    """Find the nearest other points.

    Parameters
    ----------
    points
        (n, d).
    k
        Number of neighbors; where there are fewer other points, all of them.
    chunk
        Points whose distances to all others are held at once.

    Returns
    -------
    Indices (n, k) int64, nearest first, and distances (n, k).
    """
    return _smallest(lambda rows: _distances(points[rows], points), points, k, chunk)


def spatial_neighbors(positions: Tensor, k: int, *, reach: float = 2.0, chunk: int = _CHUNK) -> tuple[Tensor, Tensor]:
    """Find the nearest spots that are neighbors on the array.

    Parameters
    ----------
    positions
        (n, 2) in any unit.
    k
        Number of neighbors at most.
    reach
        Largest distance, in medians of the distance between nearest neighbors.
    chunk
        Spots whose distances to all others are held at once.

    Returns
    -------
    Indices (n, k) int64, nearest first, and which of them are within reach (n, k).
    """
    index, distance = _smallest(lambda rows: _planar(positions, rows), positions, k, chunk)
    pitch = distance[:, :1].median() if distance.numel() else distance.sum()
    return index, distance <= reach * pitch * _SLACK


def mean_of_neighbors(values: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Mean (n, d) of the values (n, d) of each spot's neighbors; 0 where it has none."""
    weight = valid.to(values.dtype)
    total = (values[index] * weight.unsqueeze(2)).sum(dim=1)
    return total / weight.sum(dim=1, keepdim=True).clamp_min(1)


@torch.no_grad()
def hypergraph(features: Tensor, positions: Tensor, k: int, *, chunk: int = _CHUNK) -> Tensor:
    """Build one hyperedge per spot: itself and the spots nearest to it in features and position together.

    The distance is the sum of that of the features and that of the positions, each relative to its mean over all pairs
    of the section.

    Parameters
    ----------
    features
        (n, d).
    positions
        (n, 2) in any unit.
    k
        Neighbors of each spot; where there are fewer other spots, all of them.
    chunk
        Spots whose distances to all others are held at once.

    Returns
    -------
    (n, k + 1) int64: the members of each hyperedge, the spot itself first.
    """
    n = len(features)
    features = (features - features.mean(dim=0)).float()  # centered, products lose less

    def feature_distances(rows: Tensor) -> Tensor:
        return torch.cdist(features[rows], features)

    def mean(distances: Callable[[Tensor], Tensor]) -> Tensor:
        parts = [
            distances(rows).sum(dtype=torch.float64) for rows in torch.arange(n, device=features.device).split(chunk)
        ]
        return (torch.stack(parts).sum() / max(n * (n - 1), 1)).clamp_min(1e-12)

    of_features, of_positions = mean(feature_distances), mean(lambda rows: _planar(positions, rows))

    def both(rows: Tensor) -> Tensor:
        return _planar(positions, rows).div_(of_positions).add_(feature_distances(rows).div_(of_features))

    index, _ = _smallest(both, features, k, chunk)
    return torch.cat([torch.arange(n, device=index.device)[:, None], index], dim=1)


class HypergraphConv(nn.Module):
    r"""Convolution over a hypergraph :cite:p:`bai2021`.

    With incidence :math:`H`, degrees of spots :math:`D` and sizes of hyperedges :math:`B`,

    .. math:: X' = D^{-1} H B^{-1} H^\top X \Theta + b

    Every spot has one hyperedge of its own, so the products are a mean over gathered rows and a sum over scattered ones.

    Parameters
    ----------
    n_inputs, n_outputs
        Width before and after.
    """

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.lin = nn.Linear(n_inputs, n_outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, values: Tensor, members: Tensor) -> Tensor:
        """Convolve (n, n_inputs) over the hyperedges with the given members (n, size)."""
        edges = self.lin(values)[members].mean(dim=1)
        size = members.shape[1]
        total = torch.zeros_like(edges).index_add(0, members.flatten(), edges.repeat_interleave(size, dim=0))
        degree = torch.bincount(members.flatten(), minlength=len(values)).clamp_min(1)
        return total / degree.to(total.dtype).unsqueeze(1) + self.bias


def _distances(points: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances (n, m) from differences: products of large coordinates cancel."""
    return torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")


def _planar(positions: Tensor, rows: Tensor) -> Tensor:
    """Distances (m, n) in the plane, those of equally near spots set apart by their direction."""
    x, y = positions.double().unbind(dim=1)
    right, down = x - x[rows, None], y - y[rows, None]
    distance = torch.hypot(right, down)
    return distance.add_(right, alpha=_TIE * _DIRECTION[0]).add_(down, alpha=_TIE * _DIRECTION[1])


@torch.no_grad()
def _smallest(distances: Callable[[Tensor], Tensor], like: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Indices and values of the smallest entries of each row of a distance matrix, some rows at a time, without itself."""
    n = len(like)
    k = max(min(k, n - 1), 0)
    found = []
    for rows in torch.arange(n, device=like.device).split(chunk):
        block = distances(rows)
        block[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        found.append(torch.topk(block, k, dim=1, largest=False))
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found]).to(like.dtype)
