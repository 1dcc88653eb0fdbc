"""The loss of proportional-hazards models."""

from __future__ import annotations

import torch
from torch import Tensor


def cox_loss(log_risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative partial log-likelihood of Cox's model with Breslow's handling of ties, per event :cite:p:`cox1972,breslow1974`.

    `-(1 / n_events) * sum over events i of [ r_i - log sum over j with t_j >= t_i of exp(r_j) ]`, in
    O(n log n): rows are sorted by time, and rows of equal time share the risk set of all of them. The order of the rows
    does not matter.

    Parameters
    ----------
    log_risk
        (n,) log hazard relative to the baseline.
    time
        (n,) follow-up time.
    event
        (n,) 1 where the follow-up ended in the event, 0 where it was censored.

    Returns
    -------
    Scalar; 0 (with zero gradients) where there is no event.
    """
    order = torch.argsort(time, descending=True)
    risk, time, event = log_risk[order].float(), time[order], event[order].to(log_risk.dtype)
    at_risk = torch.logcumsumexp(risk, dim=0)
    # The risk set of a row reaches to the last row of the same time.
    last = torch.searchsorted(-time, -time, right=True) - 1
    return ((at_risk[last] - risk) * event).sum() / event.sum().clamp_min(1)
