"""Gaussian diffusion with a learned variance: how values are made noisy, what is learned, and how noise becomes values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

_LEAST, _MOST = 1e-4, 0.02  # noise added in the first and in the last of 1,000 steps
_HALF_BIN = 1 / 255
VlbT0 = Literal["gaussian", "image", "none"]


def kept_steps(n_steps: int, spacing: str) -> np.ndarray:
    """Steps (k,) of a shorter diffusion, in order.

    Parameters
    ----------
    n_steps
        Steps of the whole.
    spacing
        A number such as `"50"`: so many steps, evenly spread from the first to the last. `"ddim50"`: every
        `n_steps // 50`-th, from the first on.

    Raises
    ------
    ValueError
        When it is neither, or the number is not between 1 and `n_steps`.
    """
    found = re.fullmatch(r"(ddim)?(\d+)", str(spacing))
    n_kept = int(found[2]) if found else 0
    if found is None or not 1 <= n_kept <= n_steps:
        raise ValueError(f"expected a number of steps from 1 to {n_steps}, such as '50' or 'ddim50'; found {spacing!r}")
    if found[1]:
        return np.arange(n_kept) * (n_steps // n_kept)
    return np.round(np.linspace(0, n_steps - 1, n_kept)).astype(np.int64) if n_kept > 1 else np.array([n_steps - 1])


class Diffusion(nn.Module):
    """A linear schedule of noise :cite:p:`ho2020`, or some steps of it :cite:p:`nichol2021`.

    Networks see values of unit variance at step t as `sqrt(kept) x + sqrt(1 - kept) noise` and predict the noise, and
    where between its two bounds the variance of the step back lies (-1 to 1).

    Parameters
    ----------
    n_steps
        Steps of the whole schedule.
    spacing
        Steps that are kept, see :func:`kept_steps`; all of them when `None`.
    """

    step: Tensor
    signal: Tensor
    noise: Tensor
    on_clean: Tensor
    on_noisy: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, n_steps: int, spacing: str | None = None) -> None:
        super().__init__()
        self.implicit = spacing is not None and spacing.startswith("ddim")
        scale = 1000 / n_steps
        added = np.linspace(scale * _LEAST, min(scale * _MOST, 0.999), n_steps)
        step = np.arange(n_steps) if spacing is None else kept_steps(n_steps, spacing)
        kept = np.cumprod(1 - added)[step]
        before = np.append(1.0, kept[:-1])
        added = 1 - kept / before
        low = added * (1 - before) / (1 - kept)
        low[0] = low[1] if len(low) > 1 else added[0]  # that of the last step back is 0, and has no logarithm
        values = {
            "signal": np.sqrt(kept),
            "noise": np.sqrt(1 - kept),
            "on_clean": np.sqrt(before) * added / (1 - kept),
            "on_noisy": np.sqrt(1 - added) * (1 - before) / (1 - kept),
            "low": np.log(low),
            "high": np.log(added),
        }
        self.register_buffer("step", torch.from_numpy(step), persistent=False)
        for name, array in values.items():
            self.register_buffer(name, torch.from_numpy(array).float(), persistent=False)

    def __len__(self) -> int:
        return len(self.step)

    def noisy(self, values: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Values (n, k) as they are at the steps `time` (n,)."""
        return self.signal[time][:, None] * values + self.noise[time][:, None] * noise

    def clean(self, noisy: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Values (n, k) before the noise (n, k) that a network found."""
        return (noisy - self.noise[time][:, None] * noise) / self.signal[time][:, None]

    def mean_back(self, clean: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Mean (n, k) of the values one step back, of clean and noisy values."""
        return self.on_clean[time][:, None] * clean + self.on_noisy[time][:, None] * noisy

    def log_variance(self, between: Tensor, time: Tensor) -> Tensor:
        """Logarithm (n, k) of the variance of a step back; `between` is -1 at its lower and 1 at its upper bound."""
        share = (between + 1) / 2
        return share * self.high[time][:, None] + (1 - share) * self.low[time][:, None]

    def bound(self, values: Tensor, noisy: Tensor, time: Tensor, noise: Tensor, between: Tensor, at_0: VlbT0) -> Tensor:
        """Term (n,) of the variational bound at the steps `time`, in bits per value.

        Parameters
        ----------
        values, noisy
            (n, k).
        time
            (n,).
        noise, between
            What a network says (n, k); detach the noise, whose own loss is better.
        at_0
            What the last step back is judged by: the likelihood of a normal density (`"gaussian"`), that of pixels of 256
            values from -1 to 1 (`"image"`), or nothing (`"none"`).
        """
        found = self.mean_back(self.clean(noisy, time, noise), noisy, time)
        spread = self.log_variance(between, time)
        aim, low = self.mean_back(values, noisy, time), self.low[time][:, None]
        apart = (aim - found).square() * torch.exp(-spread)
        divergence = 0.5 * (spread - low - 1 + torch.exp(low - spread) + apart)
        if at_0 == "none":
            last = torch.zeros_like(divergence)
        elif at_0 == "gaussian":
            last = 0.5 * (math.log(2 * math.pi) + spread + (values - found).square() * torch.exp(-spread))
        else:
            last = -_log_bin(values, found, torch.exp(-0.5 * spread))
        return torch.where(time[:, None] == 0, last, divergence).mean(dim=1) / math.log(2)

    def sample(self, network: Callable[[Tensor, Tensor], Tensor], draw: Callable[[int], Tensor]) -> Tensor:
        """Values (n, k) from noise, step by step.

        Parameters
        ----------
        network
            Noise and variance (n, k, 2) of noisy values (n, k) at a step (1,) of the whole schedule.
        draw
            Standard normal values (n, k) of a number: 0 for what it starts from, then those of the steps back.
        """
        values = draw(0)
        for number in reversed(range(len(self))):
            time = torch.full((1,), number, device=self.step.device)
            noise, between = network(values, self.step[time]).unbind(dim=-1)
            clean = self.clean(values, time, noise)
            if self.implicit:
                earlier = time.clamp_min(1) - 1
                values = self.signal[earlier] * clean + self.noise[earlier] * noise if number else clean
                continue
            values = self.mean_back(clean, values, time)
            if number:
                values = values + torch.exp(0.5 * self.log_variance(between, time)) * draw(number)
        return values


def _log_bin(values: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """Logarithm of the probability of the bin of a pixel; the first and the last bin are open."""
    above, below = (torch.special.ndtr((values - mean + side) * precision) for side in (_HALF_BIN, -_HALF_BIN))
    inside = torch.where(values < -0.999, above, torch.where(values > 0.999, 1 - below, above - below))
    return inside.clamp_min(1e-12).log()
