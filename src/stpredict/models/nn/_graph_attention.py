"""Attention of spots over their neighbors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_GAIN = math.sqrt(2)


class GraphAttention(nn.Module):
    r"""Multi-head attention over a list of neighbors, the spot itself among them :cite:p:`velickovic2018`.

    For each head with values :math:`h = W x`, spot :math:`i` and its neighbors :math:`j \in N(i) \cup \{i\}`,

    .. math:: y_i = \sum_j \alpha_{ij} h_j, \qquad
        \alpha_{ij} = \mathrm{softmax}_j\, \mathrm{LeakyReLU}(a^\top h_i + b^\top h_j)

    A spot without neighbors attends to itself. Neither all pairs of spots nor the values of each neighbor are held:
    memory grows with the number of spots.

    Parameters
    ----------
    n_inputs, n_outputs
        Width of the input, and of each head's output.
    heads
        Number of heads; their outputs are put side by side.
    slope
        Slope of the LeakyReLU below 0.
    dropout
        Share of the attention weights that is dropped in training.
    """

    def __init__(self, n_inputs: int, n_outputs: int, heads: int = 1, *, slope: float = 0.01, dropout: float = 0.0):
        super().__init__()
        self.heads, self.slope = heads, slope
        self.dropout = nn.Dropout(dropout)
        self.lin = nn.Linear(n_inputs, heads * n_outputs, bias=False)
        self.of_spot = nn.Parameter(torch.empty(heads, n_outputs))
        self.of_neighbor = nn.Parameter(torch.empty(heads, n_outputs))
        # Xavier per head: each is a layer of its own.
        bound = _GAIN * math.sqrt(6 / (n_inputs + n_outputs))
        nn.init.uniform_(self.lin.weight, -bound, bound)
        bound = _GAIN * math.sqrt(6 / (2 * n_outputs + 1))
        nn.init.uniform_(self.of_spot, -bound, bound)
        nn.init.uniform_(self.of_neighbor, -bound, bound)

    def forward(self, values: Tensor, index: Tensor, valid: Tensor) -> Tensor:
        """Attend.

        Parameters
        ----------
        values
            (n, n_inputs).
        index, valid
            (n, k) neighbors of each spot, without itself, and which of them count.

        Returns
        -------
        (n, heads * n_outputs).
        """
        n = len(values)
        own = torch.arange(n, device=index.device).unsqueeze(1)
        index = torch.cat([own, index], dim=1)
        valid = torch.cat([torch.ones_like(own, dtype=torch.bool), valid], dim=1)
        projected = self.lin(values).unflatten(1, (self.heads, -1))
        of_spot, of_neighbor = (projected * self.of_spot).sum(dim=2), (projected * self.of_neighbor).sum(dim=2)
        scores = F.leaky_relu(of_spot.unsqueeze(1) + of_neighbor[index], self.slope)  # (n, k + 1, heads)
        weights = self.dropout(scores.masked_fill(~valid.unsqueeze(2), -torch.inf).softmax(dim=1))
        # Bags of rows of a table with one row per spot and head, added up without being copied first.
        head = torch.arange(self.heads, device=index.device)
        rows = (index.unsqueeze(1) * self.heads + head[:, None]).flatten(0, 1)
        weights = weights.transpose(1, 2).flatten(0, 1).to(projected.dtype)
        mixed = F.embedding_bag(rows, projected.flatten(0, 1), mode="sum", per_sample_weights=weights)
        return mixed.unflatten(0, (n, self.heads)).flatten(1)
