"""Many small graphs at once: their nodes and links one after the other, and what networks compute along these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 0.2
_LINKS = 2**16  # links whose values are held at once


class _SumAlong(torch.autograd.Function):
    """Sum of values along links, of which the values of some are held at a time, forth and back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, links: Tensor) -> Tensor:
        ctx.save_for_backward(links)
        return _sum_along(values, links[:, 0], links[:, 1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (links,) = ctx.saved_tensors
        return _sum_along(grad, links[:, 1], links[:, 0]), None


def _sum_along(values: Tensor, source: Tensor, target: Tensor) -> Tensor:
    total = torch.zeros_like(values)
    for start in range(0, len(source), _LINKS):
        part = slice(start, start + _LINKS)
        total.index_add_(0, target[part], values[source[part]])
    return total


@dataclass(frozen=True)
class Graphs:
    """Graphs whose nodes lie one after the other.

    Attributes
    ----------
    links
        (e, 2) int64, from and to which node.
    graph
        (m,) int64 graph of each node, ascending.
    size
        (n,) int64 number of nodes of each graph; 0 is allowed.
    """

    links: Tensor
    graph: Tensor
    size: Tensor

    @classmethod
    def of_rows(cls, size: Tensor, links: Tensor, n_links: Tensor) -> Graphs:
        """Graphs of rows: number of nodes (n,), links (e, 2) counted within each, and how many each has (n,)."""
        graph = torch.repeat_interleave(torch.arange(len(size), device=size.device), size)
        start = torch.repeat_interleave(size.cumsum(0) - size, n_links)
        return cls(links + start[:, None], graph, size)

    def sum_of_neighbors(self, values: Tensor) -> Tensor:
        """Sum (m, d) over the links that lead to each node of the values (m, d) they come from."""
        return _SumAlong.apply(values, self.links)

    def max_and_mean(self, values: Tensor) -> Tensor:
        """Largest value and mean of each graph side by side (n, 2 d); 0 for a graph without nodes."""
        n, d = len(self.size), values.shape[1]
        total = values.new_zeros(n, d).index_add(0, self.graph, values)
        largest = values.new_zeros(n, d).scatter_reduce(
            0, self.graph[:, None].expand(-1, d), values, "amax", include_self=False
        )
        return torch.cat([largest, total / self.size.clamp_min(1).unsqueeze(1)], dim=1)


class GINConv(nn.Module):
    r"""A layer of a graph isomorphism network :cite:p:`xu2019`: a perceptron of each node and the sum of its neighbors.

    .. math:: y_i = \mathrm{MLP}\left((1 + \varepsilon) x_i + \sum_{j \in N(i)} x_j\right)

    with :math:`\varepsilon` = 0, which is no parameter.

    Parameters
    ----------
    n_inputs, n_outputs
        Width before and after.
    """

    eps: Tensor

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.nn = nn.Sequential(nn.Linear(n_inputs, n_outputs), nn.ReLU(), nn.Linear(n_outputs, n_outputs))
        self.register_buffer("eps", torch.zeros(1))

    def forward(self, values: Tensor, graphs: Graphs) -> Tensor:
        """Convolve (m, n_inputs)."""
        return self.nn((1 + self.eps) * values + graphs.sum_of_neighbors(values))


class GCNConv(nn.Module):
    r"""A graph convolution :cite:p:`kipf2017` over each node and its neighbors, by the roots of their numbers of links.

    .. math:: y_i = b + \sum_{j \in N(i) \cup \{i\}} \frac{W x_j}{\sqrt{(1 + |N(i)|) (1 + |N(j)|)}}

    Parameters
    ----------
    n_inputs, n_outputs
        Width before and after.
    """

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.lin = nn.Linear(n_inputs, n_outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, values: Tensor, graphs: Graphs) -> Tensor:
        """Convolve (m, n_inputs)."""
        degree = torch.bincount(graphs.links[:, 1], minlength=len(values)).to(values.dtype)
        scaled = self.lin(values) * (1 + degree).rsqrt().unsqueeze(1)
        return (scaled + graphs.sum_of_neighbors(scaled)) * (1 + degree).rsqrt().unsqueeze(1) + self.bias


class GATConv(nn.Module):
    r"""Attention of each node over itself and its neighbors :cite:p:`velickovic2018`, along the links.

    .. math:: y_i = b + \sum_j \alpha_{ij} W x_j, \qquad
        \alpha_{ij} = \mathrm{softmax}_j\, \mathrm{LeakyReLU}(a^\top W x_i + c^\top W x_j)

    Parameters
    ----------
    n_inputs, n_outputs
        Width before, and of each head's output.
    heads
        Number of heads; their outputs are put side by side.
    """

    def __init__(self, n_inputs: int, n_outputs: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.lin = nn.Linear(n_inputs, heads * n_outputs, bias=False)
        bound = math.sqrt(6 / (1 + n_outputs))
        self.of_node = nn.Parameter(torch.empty(heads, n_outputs).uniform_(-bound, bound))
        self.of_neighbor = nn.Parameter(torch.empty(heads, n_outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(heads * n_outputs))

    def forward(self, values: Tensor, graphs: Graphs) -> Tensor:
        """Attend: (m, n_inputs) to (m, heads * n_outputs)."""
        own = torch.arange(len(values), device=values.device)
        source, node = torch.cat([graphs.links[:, 0], own]), torch.cat([graphs.links[:, 1], own])
        projected = self.lin(values).unflatten(1, (self.heads, -1))
        of_node, of_neighbor = (projected * self.of_node).sum(dim=2), (projected * self.of_neighbor).sum(dim=2)
        scores = F.leaky_relu(of_node[node] + of_neighbor[source], _SLOPE)
        # The largest one is taken off, so that no exponential is too large; the shares do not depend on it.
        largest = (
            scores.detach()
            .new_zeros(len(values), self.heads)
            .scatter_reduce(0, node[:, None].expand(-1, self.heads), scores.detach(), "amax", include_self=False)
        )
        weight = torch.exp(scores - largest[node])
        total = torch.zeros_like(largest).index_add(0, node, weight)
        share = (weight / total[node]).unsqueeze(2)
        mixed = torch.zeros_like(projected).index_add(0, node, projected[source] * share)
        return mixed.flatten(1) + self.bias
