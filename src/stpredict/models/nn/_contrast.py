"""Contrast of two views of the same rows, with a scale that is learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: Logarithm of the largest scale: temperatures stay at .01 or above.
LARGEST_SCALE = math.log(100)


def inverse_temperature(logit_scale: Tensor) -> Tensor:
    """What cosines are multiplied by: 1 to 100."""
    return logit_scale.clamp(0, LARGEST_SCALE).exp()


def info_nce(image: Tensor, other: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of finding the partner of each row among the others, in both directions, by scaled cosine.

    Parameters
    ----------
    image
        (n, d) of length 1.
    other
        (..., n, d) of length 1: one or several views that the same images are compared with, each by itself.
    scale
        What cosines are multiplied by.

    Returns
    -------
    The mean over rows, directions and views.
    """
    logits = (scale * (other @ image.T)).float().reshape(-1, len(image), len(image))
    own = torch.arange(len(image), device=image.device).expand(len(logits), -1)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.transpose(1, 2), own)) / 2
