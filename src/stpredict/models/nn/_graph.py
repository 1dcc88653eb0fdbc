"""Neighbors of spots, hypergraphs over them, and what networks compute along these: a few tensor operations each."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

_CHUNK = 1024  # rows of a distance matrix that are held at once
# Equally near neighbors, the rule on a lattice, are told apart by their direction: by their place among the rows, the
# choice would change with the order of the spots.
_DIRECTION = (0.8310, 0.5563)
_TIE = 1e-6
_SLACK = 1.001  # positions are rounded
_SPARE = (6, 30)  # spots beyond the nearest that are compared with them, to reach the next ring of a lattice
_EQUAL = 1e-12  # relative difference of distances below which rounding decides
_SECTIONS = 64  # whose neighbors are remembered
_KEPT = 2**25  # pairs of spots whose distances are held for a second use (400 MB)


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


def spatial_neighbors(positions: Tensor, k: int, *, reach: float = 2.0) -> tuple[Tensor, Tensor]:
    """Find the nearest spots that are neighbors on the array.

    A section is searched once: what was found is remembered by the positions themselves.

    Parameters
    ----------
    positions
        (n, 2) in any unit.
    k
        Number of neighbors at most.
    reach
        Largest distance, in medians of the distance between nearest neighbors.

    Returns
    -------
    Indices (n, k) int64, nearest first, and which of them are within reach (n, k).
    """
    found = _found(positions.detach().cpu().double().numpy().tobytes(), positions.dtype, k, reach)
    index, valid = (torch.from_numpy(part).to(positions.device, copy=True) for part in found)
    return index, valid


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

    def pair(rows: Tensor) -> tuple[Tensor, Tensor]:
        return _planar(positions, rows), feature_distances(rows)

    def mean(sums: tuple[Tensor, ...]) -> Tensor:
        return (torch.stack(sums).sum() / max(n * (n - 1), 1)).clamp_min(1e-12)

    sums, kept = [], []
    for rows in torch.arange(n, device=features.device).split(chunk):
        block = pair(rows)
        sums.append(tuple(part.sum(dtype=torch.float64) for part in block))
        if n * n <= _KEPT:
            kept.append(block)
    of_positions, of_features = (mean(parts) for parts in zip(*sums, strict=True))

    def both(rows: Tensor) -> Tensor:
        near, alike = kept.pop(0) if kept else pair(rows)  # asked for in the order in which they were made
        return near.div_(of_positions).add_(alike.div_(of_features))

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


def _planar(positions: Tensor, rows: Tensor, others: Tensor | None = None) -> Tensor:
    """Distances (m, n) in the plane, those of equally near spots set apart by their direction.

    To all spots, or to the `others` (m, k) of each row.
    """
    x, y = positions.double().unbind(dim=1)
    everyone = slice(None) if others is None else others
    right, down = x[everyone] - x[rows, None], y[everyone] - y[rows, None]
    distance = torch.hypot(right, down)
    return distance.add_(right, alpha=_TIE * _DIRECTION[0]).add_(down, alpha=_TIE * _DIRECTION[1])


@lru_cache(maxsize=_SECTIONS)
def _found(values: bytes, dtype: torch.dtype, k: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices and validity of :func:`spatial_neighbors`, as arrays: these know no gradient and no inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        index, distance = _by_tree(torch.from_numpy(np.frombuffer(values).reshape(-1, 2).copy()), k)
        distance = distance.to(dtype)
        pitch = distance[:, :1].median() if distance.numel() else distance.sum()
        return index.numpy(), (distance <= reach * pitch * _SLACK).numpy()


def _by_tree(positions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What `_smallest` gives for distances (n, k) in the plane: those of a few from a tree, compared as there.

    All distances are computed for the spots that these few do not settle: many at the same place, or equally far up to
    rounding.
    """
    from scipy.spatial import cKDTree

    n = len(positions)
    k = max(min(k, n - 1), 0)
    index = torch.zeros((n, k), dtype=torch.long)
    distance = torch.zeros((n, k), dtype=torch.float64)
    open_rows = torch.arange(n)
    if k and bool(torch.isfinite(positions).all()):
        tree = cKDTree(positions.numpy(), balanced_tree=False, compact_nodes=False)
        for spare in _SPARE:
            few = min(k + 1 + spare, n)
            near, candidates = (torch.from_numpy(part) for part in tree.query(positions[open_rows].numpy(), k=few))
            compared = _planar(positions, open_rows, candidates)
            compared.masked_fill_(candidates == open_rows[:, None], torch.inf)
            ordered, order = compared.sort(dim=1)
            index[open_rows], distance[open_rows] = candidates.gather(1, order[:, :k]), ordered[:, :k]
            # Beyond the last candidate, only its direction could bring a spot nearer than one of the chosen.
            settled = ordered[:, k - 1] < (near[:, -1] * (1 - 2 * _TIE) if few < n else torch.inf)
            settled &= (ordered[:, : k + 1].diff(dim=1) > _EQUAL * near[:, -1:]).all(dim=1)
            open_rows = open_rows[~settled]
            if not len(open_rows):
                break
    if k and len(open_rows):
        index[open_rows], distance[open_rows] = _smallest(
            lambda rows: _planar(positions, rows), positions, k, _CHUNK, open_rows
        )
    return index, distance


@torch.no_grad()
def _smallest(
    distances: Callable[[Tensor], Tensor], like: Tensor, k: int, chunk: int, wanted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Indices and values of the smallest entries of each row of a distance matrix, some rows at a time, without itself.

    Of the wanted rows, or of all.
    """
    n = len(like)
    k = max(min(k, n - 1), 0)
    found = []
    for rows in (torch.arange(n, device=like.device) if wanted is None else wanted).split(chunk):
        block = distances(rows)
        block[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        found.append(torch.topk(block, k, dim=1, largest=False))
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found]).to(like.dtype)
