"""Normal noise that depends on whose it is, and not on what else is drawn with it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mixed(keys: Tensor, number: Tensor | int) -> Tensor:
    """New keys (int64) of keys and a number, such as that of a sample or a step; the shapes are broadcast.

    The finalizer of SplitMix64 :cite:p:`steele2014`, whose streams pass the usual tests of randomness.
    """
    keys = keys + (torch.as_tensor(number, device=keys.device) + 1) * _signed(_GOLDEN)
    keys = (keys ^ _shifted(keys, 30)) * _signed(_FIRST)
    keys = (keys ^ _shifted(keys, 27)) * _signed(_SECOND)
    return keys ^ _shifted(keys, 31)


def keyed_normal(keys: Tensor, n_values: int) -> Tensor:
    """Standard normal values (..., n_values) float32 of keys (...) int64: always the same ones of the same key.

    Values are those of Box and Muller; none is beyond 5.9 standard deviations.
    """
    bits = mixed(keys[..., None], torch.arange(n_values, device=keys.device))
    radius = (_shifted(bits, 40).float() + 0.5) * 2.0**-24
    angle = (bits & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
    return radius.log_().mul_(-2).sqrt_() * angle.cos_()


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant


def _shifted(keys: Tensor, n: int) -> Tensor:
    """Shift to the right and fill with zeros: that of int64 repeats the sign."""
    return (keys >> n) & ((1 << (64 - n)) - 1)
