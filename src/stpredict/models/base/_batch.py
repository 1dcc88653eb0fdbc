"""What goes into a network and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

Unit = Literal["spot", "section", "grid", "bag"]


@dataclass
class Batch:
    """Tensors of one training or prediction step; those a network does not need are `None`.

    Attributes
    ----------
    features
        (n, d) float32 image features.
    patches
        (n, 3, h, w) uint8 image patches, RGB.
    positions
        (n, 2) float32 x and y in µm.
    section
        (n,) int64 number of the section each observation belongs to.
    patient
        (n,) int64 number of the patient each observation belongs to; at prediction its number among the patients that
        the network was trained on, -1 for all others.
    bag
        (n, n_tokens, d) float32 tokens of each slide; padded with zeros where a slide has fewer.
    bag_size
        (n, n_tokens) float32 number of tiles behind each token; 0 marks padding.
    cell
        (n, 2) int64 row and column of each observation in the grid of its section.
    target
        (n, n_genes) float32 normalized expression; `None` at prediction.
    counts, size_factor
        (n, n_genes) float32 raw counts, and (n,) float32 total counts relative to the median of the training set;
        `None` at prediction.
    label
        (n,) int64 class of each observation, -1 where it is not known.
    time, event
        (n,) float32 follow-up time and whether it ended in the event (1) or was censored (0).
    """

    section: Tensor
    patient: Tensor
    positions: Tensor | None = None
    features: Tensor | None = None
    patches: Tensor | None = None
    bag: Tensor | None = None
    bag_size: Tensor | None = None
    cell: Tensor | None = None
    target: Tensor | None = None
    counts: Tensor | None = None
    size_factor: Tensor | None = None
    label: Tensor | None = None
    time: Tensor | None = None
    event: Tensor | None = None

    def __len__(self) -> int:
        return len(self.section)

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor to a device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device, non_blocking=True) for k, v in tensors.items() if v is not None})


@dataclass
class Prediction:
    """What a network returns.

    Attributes
    ----------
    mean
        (n, n_genes) in the unit of the target.
    std
        (n, n_genes) standard deviation in the same unit, where the network gives one.
    samples
        (n, n_samples, n_genes), where the network draws samples.
    extras
        Anything the network's own loss needs.
    """

    mean: Tensor
    std: Tensor | None = None
    samples: Tensor | None = None
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Statistics of the training set, streamed once before training.

    Attributes
    ----------
    n
        Number of training observations.
    feature_mean, feature_std
        (d,) or `None` where there are no features. Constant features have a standard deviation of 1.
    target_mean, target_std
        (n_genes,). Constant genes have a standard deviation of 1.
    """

    n: int
    target_mean: Tensor
    target_std: Tensor
    feature_mean: Tensor | None = None
    feature_std: Tensor | None = None
