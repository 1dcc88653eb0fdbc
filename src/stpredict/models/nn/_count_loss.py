"""The deviance of counts around predicted rates, with the depth of each observation as offset."""

from __future__ import annotations

import torch
from torch import Tensor

#: Bound of the log rate: a rate of 1 is every count of an observation, and a network may start above it.
LARGEST_LOG_RATE = 3.0


def count_deviance(counts: Tensor, log_rate: Tensor, depth: Tensor, theta: Tensor) -> Tensor:
    r"""Deviance of each count from its expectation :math:`\mu = n e^\eta`: twice the log-likelihood lost to a perfect fit.

    Parameters
    ----------
    counts
        (n, n_genes) counts.
    log_rate
        (n, n_genes) logarithm of the rate per count, :math:`\eta`.
    depth
        (n, 1) or (n, n_genes) depth, :math:`n`; what has a depth of 0 adds nothing.
    theta
        (n_genes,) inverse dispersion of the negative binomial distribution; infinity for Poisson.

    Returns
    -------
    (n, n_genes), at least 0.
    """
    log_rate = log_rate.clamp(max=LARGEST_LOG_RATE)
    mean = depth * log_rate.exp()
    own = counts * (counts.clamp_min(1).log() - depth.clamp_min(1e-12).log() - log_rate)
    poisson = own - (counts - mean)
    finite = theta.isfinite()
    if not finite.any():
        return 2 * poisson
    size = torch.where(finite, theta, torch.ones_like(theta))
    # log((x + θ) / (μ + θ)), exact where both are small beside θ.
    shared = torch.log1p((counts - mean) / (mean + size))
    return 2 * torch.where(finite, own - (counts + size) * shared, poisson)
