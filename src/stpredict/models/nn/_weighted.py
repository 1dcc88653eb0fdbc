"""Losses of genes that do not all count alike."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST = 1e-3  # variance of a prediction below which its correlation counts less, in variances of the gene


def weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of losses (…, n_genes), with a weight (n_genes,) of each gene, or of all alike where there is none."""
    if weight is None:
        return losses.mean()
    each = losses.flatten(end_dim=-2).mean(dim=0)
    return (each * weight).sum() / weight.sum()


def correlation_loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - Pearson's correlation per gene over the rows, mean over the genes that vary; 0 where none does.

    Parameters
    ----------
    prediction, target
        (n, n_genes) in units in which genes have a variance of about 1. The correlation of a prediction that hardly
        varies is drawn to 0, so that its gradient stays finite.
    weight
        (n_genes,) weight of each gene; all alike when `None`. One that does not vary takes no weight from the others.
    """
    prediction, target = (values.float() - values.float().mean(dim=0) for values in (prediction, target))
    variance = target.square().mean(dim=0)
    varies = variance > _SMALLEST**2
    spread = ((prediction.square().mean(dim=0) + _SMALLEST) * variance.clamp_min(_SMALLEST**2)).sqrt()
    losses = 1 - (prediction * target).mean(dim=0) / spread
    if weight is None:
        return (losses * varies).sum() / varies.sum().clamp_min(1)
    weight = weight * varies
    return (losses * weight).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
