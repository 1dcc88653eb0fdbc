"""Zero-inflated negative binomial counts: the heads that parametrize them and their likelihood."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.nn._weighted import weighted_mean

_MEAN = (1e-5, 1e6)
_DISPERSION = (1e-4, 1e4)


class ZINB(NamedTuple):
    """Parameters, each (n, n_genes).

    Attributes
    ----------
    mean
        Expected count of an observation of median depth, were there no extra zeros.
    dispersion
        Inverse dispersion θ: the variance is mean + mean² / θ.
    zero_logit
        Logit of the share of extra zeros.
    """

    mean: Tensor
    dispersion: Tensor
    zero_logit: Tensor


class ZINBHead(nn.Module):
    """Linear maps to the parameters of a zero-inflated negative binomial :cite:p:`eraslan2019`.

    Parameters
    ----------
    n_inputs
        Width of the input.
    n_genes
        Number of genes.
    """

    def __init__(self, n_inputs: int, n_genes: int) -> None:
        super().__init__()
        self.mean = nn.Linear(n_inputs, n_genes)
        self.dispersion = nn.Linear(n_inputs, n_genes)
        self.zero = nn.Linear(n_inputs, n_genes)

    def forward(self, hidden: Tensor) -> ZINB:
        """Parameters from (n, n_inputs), in full precision: the exponential overflows in half."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            # Clamped before the exponential, so that no gradient is infinite.
            mean = self.mean(hidden).clamp(*(math.log(bound) for bound in _MEAN)).exp()
            return ZINB(mean, F.softplus(self.dispersion(hidden)).clamp(*_DISPERSION), self.zero(hidden))


def zinb_loss(
    counts: Tensor, mean: Tensor, dispersion: Tensor, zero_logit: Tensor, weight: Tensor | None = None
) -> Tensor:
    r"""Negative log-likelihood of counts, mean over all entries.

    With :math:`\pi` the share of extra zeros and :math:`f` the negative binomial probability of mean :math:`\mu` and
    inverse dispersion :math:`\theta`,

    .. math:: -\log(\pi + (1 - \pi) f(0)) \text{ of a zero, } -\log(1 - \pi) - \log f(x) \text{ of any other count.}

    Parameters
    ----------
    counts, mean, dispersion, zero_logit
        (n, n_genes); mean and dispersion positive.
    weight
        (n_genes,) how much each gene counts; all alike when `None`.
    """
    log_zero, log_rest = F.logsigmoid(zero_logit), F.logsigmoid(-zero_logit)
    # log(θ / (θ + μ)) and log(μ / (θ + μ)), exact where one is much larger than the other.
    log_theta, log_mean = dispersion.log(), mean.log()
    log_sum = torch.logaddexp(log_theta, log_mean)
    at_zero = -dispersion * F.softplus(log_mean - log_theta)
    likelihood = (
        torch.lgamma(counts + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(counts + 1)
        + at_zero
        + counts * (log_mean - log_sum)
    )
    likelihood = torch.where(counts > 0, log_rest + likelihood, torch.logaddexp(log_zero, log_rest + at_zero))
    return weighted_mean(-likelihood, weight)
