"""Layers that read a sequence in both directions in memory that is linear in its length: Mamba blocks, as in Caduceus."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from stpredict.models.nn._recurrence import causal_convolution, kernel_for, scan_by_kernel, selective_scan

_STEPS = (1e-3, 1e-1)  # between which the first steps of the recurrence are drawn, on a logarithmic scale
_EPS = 1e-5


class Mamba(nn.Module):
    """A gated linear recurrence whose gates depend on the position :cite:p:`gu2023`.

    Parameters
    ----------
    width
        Width of the sequence.
    d_state
        Numbers that each inner column remembers.
    d_conv
        Positions that the convolution before it sees.
    expand
        Inner columns per column of the sequence.
    """

    def __init__(self, width: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner, self.rank = expand * width, math.ceil(width / 16)
        self.d_state, self.d_conv, self.inner = d_state, d_conv, inner
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        low, high = map(math.log, _STEPS)
        step = torch.exp(low + (high - low) * torch.rand(inner))
        with torch.no_grad():  # softplus of the bias is the step
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, sequence: Tensor, kept: Tensor | None, chunk: int, *, backwards: bool = False) -> Tensor:
        """Transform (n, length, width), part by part.

        Parameters
        ----------
        sequence
            (n, length, width).
        kept
            (n, length) how much of each position is read, from 0 (it leaves no trace) to 1; all of all when `None`.
        chunk
            Positions at once, of all n together; their states are computed again on the way back where there are several
            parts.
        backwards
            Whether to read from the end.
        """
        n, length, _ = sequence.shape
        kernel = kernel_for(sequence.device)
        size = length if kernel is not None else max(1, chunk // n)
        # Split at once: gradients of slices would each be as long as the sequence.
        inputs = sequence.split(size, dim=1)
        shares: Sequence[Tensor | None] = [None] * len(inputs) if kept is None else kept.split(size, dim=1)
        parts = list(zip(inputs, shares, strict=True))
        before, state = self.nothing(sequence)
        outputs: list[Tensor] = []
        for part, share in reversed(parts) if backwards else parts:
            if len(parts) > 1 and torch.is_grad_enabled():
                found, before, state = checkpoint(
                    self._part, part, share, before, state, backwards, use_reentrant=False
                )
            else:
                found, before, state = self._part(part, share, before, state, backwards)
            outputs.append(found)
        return torch.cat(outputs[::-1] if backwards else outputs, dim=1) if len(outputs) > 1 else outputs[0]

    def nothing(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """What a part of a sequence finds before it where there is nothing: inputs of the convolution, and the state."""
        shape = (len(sequence), self.d_conv - 1, self.inner)
        return sequence.new_zeros(shape), torch.zeros(len(sequence), self.d_state, self.inner, device=sequence.device)

    def _part(
        self, sequence: Tensor, kept: Tensor | None, before: Tensor, state: Tensor, backwards: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Transform one part, with what came before it."""
        if backwards:
            sequence, kept = sequence.flip(1), None if kept is None else kept.flip(1)
        values, gate = self.in_proj(sequence).chunk(2, dim=-1)
        if kept is not None:
            values = values * kept.unsqueeze(-1)
        values, before = causal_convolution(values, before.to(values), self.conv1d.weight, self.conv1d.bias)
        values = F.silu(values)
        rank, write, read = self.x_proj(values).split([self.rank, self.d_state, self.d_state], dim=-1)
        # States add up over many positions: in full precision whatever the layers are in.
        values, write, read = values.float(), write.float(), read.float()
        step = F.softplus(self.dt_proj(rank).float())
        if kept is not None:
            step = step * kept.unsqueeze(-1)
        rate = -torch.exp(self.A_log.float())
        kernel = kernel_for(values.device)
        if kernel is None:
            found, state = selective_scan(values, step, rate, write, read, state)
        else:  # it takes the whole sequence at once
            found = scan_by_kernel(kernel, values, step, rate, write, read)
        found = self.out_proj((found + self.D * values) * F.silu(gate))
        return found.flip(1) if backwards else found, before, state


class BothDirections(nn.Module):
    """The sum of two of them, one from each end, which share their first and last projection :cite:p:`schiff2024`."""

    def __init__(self, width: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        self.mamba_fwd, self.mamba_rev = (Mamba(width, d_state, d_conv, expand) for _ in range(2))
        self.mamba_rev.in_proj, self.mamba_rev.out_proj = self.mamba_fwd.in_proj, self.mamba_fwd.out_proj

    def forward(self, sequence: Tensor, kept: Tensor | None, chunk: int) -> Tensor:
        """Transform (n, length, width)."""
        forwards = self.mamba_fwd(sequence, kept, chunk)
        return forwards + self.mamba_rev(sequence, kept, chunk, backwards=True)


class _Layer(nn.Module):
    def __init__(self, width: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        self.mixer = BothDirections(width, d_state, d_conv, expand)
        self.norm = nn.RMSNorm(width, eps=_EPS)

    def forward(self, sequence: Tensor, kept: Tensor | None, chunk: int) -> Tensor:
        return sequence + self.mixer(self.norm(sequence), kept, chunk)


class _Backbone(nn.Module):
    def __init__(self, width: int, depth: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        layers = [_Layer(width, d_state, d_conv, expand) for _ in range(depth)]
        self.layers = nn.ModuleList(layers)
        self.norm_f = nn.RMSNorm(width, eps=_EPS)
        with torch.no_grad():  # so that the sum of all layers has the size of one
            for layer in layers:
                layer.mixer.mamba_fwd.out_proj.weight.div_(math.sqrt(depth))

    def forward(self, sequence: Tensor, kept: Tensor | None, chunk: int) -> Tensor:
        for layer in self.layers:
            sequence = layer(sequence, kept, chunk)
        return self.norm_f(sequence)


class Caduceus(nn.Module):
    """Layers of recurrences in both directions, each added to what comes in, and a norm at the end.

    Parameters
    ----------
    width
        Width of the sequence.
    depth
        Number of layers.
    d_state, d_conv, expand
        See :class:`Mamba`.
    chunk
        Positions of all sequences of a step that go through a recurrence at once: what bounds the memory for states.
    """

    def __init__(self, width: int, depth: int, d_state: int, d_conv: int, expand: int, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.backbone = _Backbone(width, depth, d_state, d_conv, expand)

    def forward(self, sequence: Tensor, kept: Tensor | None = None) -> Tensor:
        """Encode (n, length, width); others see of each position as much as `kept` (n, length) says."""
        return self.backbone(sequence, kept, self.chunk)
