"""Beta distributions of a mask: their combination, samples with a gradient, and their distance to a prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Beta, kl_divergence
from torch.nn import functional as F

#: Least parameter of a Beta distribution: at 0 there is none.
LEAST = 1e-8


def track_betas(signals: Tensor, against: Tensor, floor: float, scale: float) -> tuple[Tensor, Tensor]:
    """Parameters (…, n_tracks) and (n_tracks,) of what each signal (…, n_tracks) says of a position.

    A position whose signal is that of `against` (n_tracks,) is as likely open as closed.
    """
    return tuple(((values.float() + floor) * scale).clamp_min(LEAST) for values in (signals, against))  # type: ignore[return-value]


def combined(own: Tensor, tracks: tuple[Tensor, Tensor] | None, weight: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The product of Beta densities: their parameters, added up.

    Parameters
    ----------
    own
        (n, length, 2) what the sequence says, at weight 1.
    tracks
        What the signals say, see :func:`track_betas`; nothing when `None`.
    weight
        (n_tracks,) weight of each signal.
    scale
        What the sums are multiplied by.
    """
    alpha, beta = own.float().clamp_min(LEAST).unbind(-1)
    if tracks is not None:
        alpha, beta = alpha + tracks[0] @ weight, beta + tracks[1] @ weight
    return (scale * alpha).clamp_min(LEAST), (scale * beta).clamp_min(LEAST)


def sample_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    """Draw from Beta distributions, with a gradient.

    A Beta value is the share of one of two Gamma values. These are drawn as logarithms, of a Gamma with one more and a
    uniform number, so that nothing underflows where parameters are next to 0.
    """
    logs = []
    for shape in (alpha, beta):
        gamma = torch._standard_gamma(shape + 1)
        uniform = torch.rand_like(shape).clamp_min(torch.finfo(shape.dtype).tiny)
        logs.append(gamma.log() + uniform.log() / shape)
    return torch.sigmoid(logs[0] - logs[1])


def prior_of(mean: float, scale: float) -> tuple[float, float]:
    """Parameters of the prior whose mean is `mean` and whose first parameter is `scale`."""
    return scale, (1 - mean) / mean * scale


def divergence(alpha: Tensor, beta: Tensor, mean: float, scale: float) -> Tensor:
    """Kullback–Leibler divergence of Beta distributions from the prior, of every position."""
    first, second = (alpha.new_tensor(value) for value in prior_of(mean, scale))
    return kl_divergence(Beta(alpha, beta, validate_args=False), Beta(first, second, validate_args=False))


class _Opened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor, threshold: float) -> Tensor:
        return (share >= threshold).to(share.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def opened(share: Tensor, threshold: float) -> Tensor:
    """1 where a share reaches the threshold, else 0, exactly; the gradient is that of the share (straight through)."""
    return _Opened.apply(share, threshold)


def packed(sequence: Tensor, open_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The open positions of each sequence, moved together.

    Parameters
    ----------
    sequence
        (n, length, width).
    open_
        (n, length) bool.

    Returns
    -------
    The open positions (n, k, width) in their order, k those of the sequence that has most; which of these there are
    (n, k); and where they were (n, k).
    """
    k = max(1, int(open_.sum(dim=1).max()))
    place = torch.argsort((~open_).to(torch.uint8), dim=1, stable=True)[:, :k]
    kept = open_.gather(1, place)
    rows = sequence.gather(1, place.unsqueeze(-1).expand(-1, -1, sequence.shape[-1]))
    return rows * kept.unsqueeze(-1), kept, place


def as_bases(codes: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear map (width, 4) of bases as one of four, by their codes (n, length): 4 is none of them."""
    table = F.pad(weight.T, (0, 0, 0, 1))
    return F.embedding(codes.int(), table if bias is None else table + bias)
