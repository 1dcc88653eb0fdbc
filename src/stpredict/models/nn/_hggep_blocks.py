"""Blocks of HGGEP on images: central differences, gradient enhancement, attention over channels and pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.nn._batch_norm import BatchNorm2d

_PLUS = (1, 3, 4, 5, 7)  # of the nine pixels around one, row by row: above, left, itself, right, below


class CrossDifferenceConv(nn.Module):
    r"""Convolution over a plus-shaped neighborhood that weighs differences to the central pixel :cite:p:`yu2021`.

    With the weights :math:`w` of the five pixels :math:`x_p` around :math:`x_0`, which is one of them,

    .. math:: y = (1 - \theta) \sum_p w_p x_p + \theta \sum_p w_p (x_p - x_0) = \sum_p w_p x_p - \theta x_0 \sum_p w_p

    which is one convolution with another central weight.

    Parameters
    ----------
    n_inputs, n_outputs
        Channels before and after.
    stride
        Stride of the convolution; the border is padded by one pixel of zeros.
    theta
        Share of the differences: 0 is an ordinary convolution.
    """

    def __init__(self, n_inputs: int, n_outputs: int, *, stride: int = 1, theta: float = 0.7) -> None:
        super().__init__()
        self.stride, self.theta = stride, theta
        self.weight = nn.Parameter(torch.empty(n_outputs, n_inputs, len(_PLUS)))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Convolve (n, n_inputs, h, w)."""
        index = torch.tensor(_PLUS, device=self.weight.device)
        kernel = self.weight.new_zeros(*self.weight.shape[:2], 9).index_copy(2, index, self.weight)
        center = F.one_hot(index.new_tensor(4), 9).to(kernel.dtype)
        kernel = kernel - self.theta * self.weight.sum(dim=2, keepdim=True) * center
        return F.conv2d(images, kernel.unflatten(2, (3, 3)), stride=self.stride, padding=1)


class GradientEnhancement(nn.Module):
    """An ordinary and a central-difference convolution side by side, joined: (n, 3, h, w) at half the resolution.

    The joining 1 × 1 convolution pads by one pixel, as published: 112 pixels become 58, from which the later stages get
    the published 29, 15, 8 and 4.

    Parameters
    ----------
    theta
        Share of the differences.
    """

    def __init__(self, theta: float) -> None:
        super().__init__()
        plain = nn.Conv2d(3, 3, 3, stride=2, padding=1, bias=False)
        self.plain = nn.Sequential(plain, BatchNorm2d(3), nn.ReLU6())
        self.difference = nn.Sequential(CrossDifferenceConv(3, 3, stride=2, theta=theta), BatchNorm2d(3), nn.ReLU6())
        self.join = nn.Sequential(nn.Conv2d(6, 3, 1, padding=1, bias=False), BatchNorm2d(3), nn.ReLU6())

    def forward(self, images: Tensor) -> Tensor:
        """Enhance (n, 3, h, w)."""
        return self.join(torch.cat([self.plain(images), self.difference(images)], dim=1))


class CBAM(nn.Module):
    """Gates between 0 and 1, of the channels from their mean and maximum, then of the pixels :cite:p:`woo2018`.

    Parameters
    ----------
    n_channels
        Channels of the maps.
    reduction
        Factor by which the hidden layer of the channel gate is narrower.
    """

    def __init__(self, n_channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(n_channels // reduction, 1)
        self.channel = nn.Sequential(
            nn.Linear(n_channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, n_channels, bias=False)
        )
        self.pixel = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, maps: Tensor) -> Tensor:
        """Weigh (n, n_channels, h, w)."""
        gate = torch.sigmoid(self.channel(maps.mean(dim=(2, 3))) + self.channel(maps.amax(dim=(2, 3))))
        maps = maps * gate[:, :, None, None]
        summary = torch.cat([maps.mean(dim=1, keepdim=True), maps.amax(dim=1, keepdim=True)], dim=1)
        return maps * torch.sigmoid(self.pixel(summary))
