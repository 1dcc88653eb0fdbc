"""A gated linear recurrence over positions, all positions of a chunk at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_recurrence(decay: Tensor, inputs: Tensor, start: Tensor) -> Tensor:
    r"""States :math:`h_t = a_t h_{t-1} + b_t` of all positions.

    Neighbors are joined in pairs, the pairs in pairs, and so on: as many steps as the length has binary digits, each over
    all positions that are left, and about twice the work of a loop. Nothing is divided, so that strong decay is as exact as
    weak. The way back is the same recurrence in the other direction; only decay and states are kept for it.

    Parameters
    ----------
    decay, inputs
        :math:`a` and :math:`b`, (n, length, …).
    start
        The state (n, …) before the first position.

    Returns
    -------
    The states (n, length, …).
    """
    return _Recurrence.apply(decay, inputs, start)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor, start: Tensor) -> Tensor:
        states = _states(decay, inputs, start)
        ctx.save_for_backward(decay, states, start)
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, states, start = ctx.saved_tensors
        # What a state is worth: its own gradient, and that of the next one as far as it decays to there.
        later = torch.cat([decay[:, 1:], torch.zeros_like(decay[:, :1])], dim=1).flip(1)
        worth = _states(later, grads[0].flip(1), torch.zeros_like(start)).flip(1)
        before = torch.cat([start.unsqueeze(1), states[:, :-1]], dim=1)
        return worth * before, worth, worth[:, 0] * decay[:, 0]


def _states(decay: Tensor, inputs: Tensor, start: Tensor) -> Tensor:
    """States by pairs of positions: those at odd places from the pairs, those between from the one before."""
    length = inputs.shape[1]
    if length == 1:
        return torch.addcmul(inputs, decay, start.unsqueeze(1))
    states = torch.empty_like(inputs)
    second, paired = decay[:, 1::2], slice(0, length - length % 2, 2)
    states[:, 1::2] = _states(
        second * decay[:, paired], torch.addcmul(inputs[:, 1::2], second, inputs[:, paired]), start
    )
    states[:, 0] = torch.addcmul(inputs[:, 0], decay[:, 0], start)
    states[:, 2::2] = torch.addcmul(inputs[:, 2::2], decay[:, 2::2], states[:, 1:-1:2])
    return states


def selective_scan(
    values: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Selective state space: :math:`h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t x_t`, and :math:`C_t h_t` of it :cite:p:`gu2023`.

    Parameters
    ----------
    values
        :math:`x`, (n, length, width).
    step
        :math:`\Delta`, (n, length, width); a position where it is 0 leaves the state as it was.
    rate
        :math:`A`, (width, d_state), below 0.
    write, read
        :math:`B` and :math:`C`, (n, length, d_state).
    start
        The state (n, d_state, width) before the first position.

    Returns
    -------
    What is read (n, length, width), and the last state (n, d_state, width).
    """
    # Columns last: they are many, and what is remembered of each is little.
    decay = torch.exp(step.unsqueeze(2) * rate.T)
    inputs = write.unsqueeze(-1) * (step * values).unsqueeze(2)
    states = linear_recurrence(decay, inputs, start)
    # A view of the last state would hold those of all positions in memory.
    return torch.einsum("nlsw,nls->nlw", states, read), states[:, -1].clone()


@cache
def _mamba_ssm() -> Callable[..., Tensor] | None:
    """Fused kernel of mamba-ssm, where that is installed and can be loaded."""
    try:
        return importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    except ImportError:
        return None


def kernel_for(device: torch.device) -> Callable[..., Tensor] | None:
    """Kernel that scans a whole sequence without keeping its states; `None` where there is none for this device."""
    return _mamba_ssm() if device.type == "cuda" else None


def scan_by_kernel(
    kernel: Callable[..., Tensor], values: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor
) -> Tensor:
    """The same as :func:`selective_scan` from a state of 0, by a kernel that has positions last."""
    parts = (values, step, write, read)
    values, step, write, read = (part.transpose(1, 2).contiguous() for part in parts)
    return kernel(values, step, rate, write, read).transpose(1, 2)


def causal_convolution(values: Tensor, before: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Convolution of each column with the places before it, and the last places, which the next part needs.

    Parameters
    ----------
    values
        (n, length, width).
    before
        (n, k - 1, width) places before the first; 0 at the beginning.
    weight, bias
        (width, 1, k) and (width,).
    """
    known = torch.cat([before, values], dim=1)
    found = F.conv1d(known.transpose(1, 2), weight, bias, groups=len(weight)).transpose(1, 2)
    return found, known[:, known.shape[1] - before.shape[1] :].clone()
