"""A transformer whose tokens are genes, modulated by a condition."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.nn._tanh_gelu import TanhGelu

_N_FREQUENCIES, _LONGEST = 128, 10_000.0
_EPS = 1e-6


class GeneTransformer(nn.Module):
    """Diffusion transformer :cite:p:`peebles2023` over genes: no positions, a gene is known by a vector of its own.

    What is learned about a condition enters every block as shift, scale and gate. Gates and head start at zero, so that
    the output of a new network is 0.

    Parameters
    ----------
    n_genes
        Number of tokens.
    hidden
        Width.
    depth, heads
        Number of blocks, and of heads of attention.
    n_outputs
        Outputs per gene.
    """

    def __init__(self, n_genes: int, hidden: int, depth: int, heads: int, n_outputs: int = 2) -> None:
        super().__init__()
        self.gene = nn.Parameter(torch.empty(n_genes, hidden))
        self.value = nn.Sequential(nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.time = nn.Sequential(nn.Linear(2 * _N_FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        blocks = [Block(hidden, heads) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.modulation = nn.Linear(hidden, 2 * hidden)
        self.head = nn.Linear(hidden, n_outputs)
        xavier(self)
        nn.init.kaiming_uniform_(self.gene, a=math.sqrt(5))
        small_normal(self.time)
        for silent in (self.modulation, self.head, *(block.modulation for block in blocks)):
            nn.init.zeros_(silent.weight)

    def forward(self, values: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Outputs (n, n_genes, n_outputs).

        Parameters
        ----------
        values
            (n, n_genes).
        time
            (n,) or (1,) step.
        condition
            (n, hidden).
        """
        tokens = self.value(values[..., None]) + self.gene
        told = F.silu(self.time(frequencies(time)) + condition)
        for block in self.blocks:
            tokens = block(tokens, told)
        shift, scale = self.modulation(told)[:, None].chunk(2, dim=-1)
        return self.head(modulated(tokens, shift, scale))


class Block(nn.Module):
    """Attention and feed-forward, each shifted and scaled before and gated behind by a condition."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.feed_forward = nn.Sequential(nn.Linear(hidden, 4 * hidden), TanhGelu(), nn.Linear(4 * hidden, hidden))
        self.modulation = nn.Linear(hidden, 6 * hidden)

    def forward(self, tokens: Tensor, told: Tensor) -> Tensor:
        """Transform (n, n_genes, hidden), told (n, hidden)."""
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(told)[:, None].chunk(6, dim=-1)
        query, key, value = (
            self.qkv(modulated(tokens, shift, scale)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = torch.addcmul(tokens, gate, self.out(mixed))
        return torch.addcmul(tokens, gate_2, self.feed_forward(modulated(tokens, shift_2, scale_2)))


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens (n, k, d) in units of their own spread, scaled and shifted (n, 1, d)."""
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:], eps=_EPS), 1 + scale)


def frequencies(time: Tensor) -> Tensor:
    """Cosines and sines (n, 256) of steps (n,), in geometric order."""
    rate = torch.exp(torch.arange(_N_FREQUENCIES, device=time.device) * (-math.log(_LONGEST) / _N_FREQUENCIES))
    phase = time[:, None].float() * rate
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def xavier(module: nn.Module) -> None:
    """Draw the weights of every linear layer after Xavier, without bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def small_normal(module: nn.Module) -> None:
    """Draw the weights of every linear layer from a normal distribution of a standard deviation of 0.02."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)


class Average(nn.Module):
    """Exponential moving average of the weights of a module, as buffers.

    Parameters
    ----------
    of
        The module; it is passed to every call, and is no part of this one.
    decay
        Share that is kept in each update.
    warm
        Whether to keep less in the beginning, (1 + n) / (10 + n) in update n, so that the start is forgotten.
    """

    n_updates: Tensor

    def __init__(self, of: nn.Module, decay: float, *, warm: bool) -> None:
        super().__init__()
        self.decay, self.warm = decay, warm
        self.names = [name for name, _ in of.named_parameters()]
        for name, parameter in of.named_parameters():
            self.register_buffer(name.replace(".", "_"), parameter.detach().clone())
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def start(self, of: nn.Module) -> None:
        """Take the weights as they are."""
        torch._foreach_copy_(self._held(), list(of.parameters()))
        self.n_updates.zero_()

    @torch.no_grad()
    def update(self, of: nn.Module) -> None:
        """Draw the average toward the weights."""
        n = int(self.n_updates)
        kept = min(self.decay, (1 + n) / (10 + n)) if self.warm else self.decay
        torch._foreach_lerp_(self._held(), list(of.parameters()), 1 - kept)
        self.n_updates += 1

    def call(self, of: nn.Module, *inputs: Any) -> Any:
        """What the module says with its average weights."""
        return torch.func.functional_call(of, dict(zip(self.names, self._held(), strict=True)), inputs)

    def _held(self) -> list[Tensor]:
        return [self.get_buffer(name.replace(".", "_")) for name in self.names]
