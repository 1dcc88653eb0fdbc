"""Blocks of the U-Net on grids; each works inside the extent of every section of a batch.

Sections of a batch may differ in size. The cells beyond the extent (b, h, w) of a section stay zero after every block
and count in no normalization, so that a section is treated as if it were alone. The extent is `None` where all
sections fill the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Extent = Tensor | None


class GridNorm(nn.BatchNorm2d):
    """Batch norm over the cells inside the extents; zero outside."""

    def forward(self, values: Tensor, extent: Extent = None) -> Tensor:
        if extent is not None:
            cells = values.permute(0, 2, 3, 1)
            inside = self(cells[extent].T[None, :, :, None])
            whole = inside.new_zeros(cells.shape)
            whole[extent] = inside[0, :, :, 0].T
            return whole.permute(0, 3, 1, 2)
        if self.training and values.numel() == self.num_features:  # the variance of one cell is no scale
            return F.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(values)


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""

    def __init__(self, n_inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, width, 3, padding=1)
        self.norm1 = GridNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = GridNorm(width)

    def forward(self, values: Tensor, extent: Extent = None) -> Tensor:
        values = self.norm1(self.conv1(values), extent).relu_()
        return self.norm2(self.conv2(values), extent).relu_()


class Upsample(nn.Module):
    """Twice the resolution (nearest cell), a 3 x 3 convolution, batch norm, ReLU."""

    def __init__(self, n_inputs: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_inputs, width, 3, padding=1)
        self.norm = GridNorm(width)

    def forward(self, values: Tensor, extent: Extent = None) -> Tensor:
        return self.norm(self.conv(F.interpolate(values, scale_factor=2.0, mode="nearest")), extent).relu_()


class Gate(nn.Module):
    """Multi-scale attention gate: `x + x · g`, where 1 x 1, 3 x 3 and dilated 3 x 3 convolutions vote on `g`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(width, width, 1)
        self.point_norm = GridNorm(width)
        self.ordinary = nn.Conv2d(width, width, 3, padding=1)
        self.ordinary_norm = GridNorm(width)
        self.dilated = nn.Conv2d(width, width, 3, padding=2, dilation=2)
        self.dilated_norm = GridNorm(width)
        self.vote = nn.Conv2d(3 * width, width, 1)
        self.vote_norm = GridNorm(width)

    def forward(self, values: Tensor, extent: Extent = None) -> Tensor:
        scales = (
            self.point_norm(self.point(values), extent),
            self.ordinary_norm(self.ordinary(values), extent),
            self.dilated_norm(self.dilated(values), extent),
        )
        vote = self.vote_norm(self.vote(torch.cat(scales, dim=1).relu_()), extent)
        return torch.addcmul(values, values, vote.sigmoid())


class MixerLayer(nn.Module):
    """ConvMixer: a depthwise 7 x 7 convolution around which values pass, then a 1 x 1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.depthwise_norm = GridNorm(width)
        self.point = nn.Conv2d(width, width, 1)
        self.point_norm = GridNorm(width)

    def forward(self, values: Tensor, extent: Extent = None) -> Tensor:
        values = values + self.depthwise_norm(F.gelu(self.depthwise(values)), extent)
        return self.point_norm(F.gelu(self.point(values)), extent)
