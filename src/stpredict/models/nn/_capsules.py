"""Convolutions that depend on their image, and capsules: vectors whose length says how present something is."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.nn._batch_norm import BatchNorm2d

_EPS = 1e-12
_STEM = ((32, 5, 1), (64, 3, 1), (64, 3, 1), (128, 3, 2))  # channels, kernel, stride
_LEAST = 11  # side of the smallest map of which these leave something without padding
_CAPSULES, _CAPSULE_DIM = 16, 8


class DynamicConv2d(nn.Module):
    r"""Omni-dimensional dynamic convolution :cite:p:`li2022`: each image is filtered with a kernel of its own.

    The kernel is a mixture of several, weighted along all of its dimensions by what the mean of the image says:

    .. math:: W(x) = \alpha^f \odot \alpha^c \odot \alpha^s \odot \sum_m \alpha^m W_m

    with weights :math:`\alpha^m` of the kernels (they add up to 1), and :math:`\alpha^f, \alpha^c, \alpha^s` of the
    filters, the input channels and the positions within the kernel (each between 0 and 1).

    Parameters
    ----------
    n_inputs, n_outputs
        Channels.
    kernel, stride
        Side of the kernel, and its step.
    n_kernels
        Kernels in the mixture.
    n_squeezed
        Width of the description of the image that the weights are computed from.
    """

    def __init__(
        self, n_inputs: int, n_outputs: int, kernel: int, stride: int = 1, *, n_kernels: int = 4, n_squeezed: int = 16
    ) -> None:
        super().__init__()
        self.stride, self.kernel = stride, kernel
        self.weight = nn.Parameter(torch.empty(n_kernels, n_outputs, n_inputs, kernel, kernel))
        nn.init.normal_(self.weight, std=math.sqrt(2 / (n_inputs * kernel**2)))
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(n_inputs, n_squeezed, 1, bias=False), BatchNorm2d(n_squeezed), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.kernels = nn.Linear(n_squeezed, n_kernels)
        self.filters = nn.Linear(n_squeezed, n_outputs)
        self.channels = nn.Linear(n_squeezed, n_inputs)
        self.positions = nn.Linear(n_squeezed, kernel**2)

    def forward(self, images: Tensor) -> Tensor:
        """Convolve (n, n_inputs, h, w) without padding."""
        n, size = len(images), [(side - self.kernel) // self.stride + 1 for side in images.shape[2:]]
        squeezed = self.squeeze(images)
        # (n, n_outputs, n_inputs, kernel²): one product per image is faster than one group per image.
        weight = torch.einsum("nm,mfcp->nfcp", self.kernels(squeezed).softmax(dim=1), self.weight.flatten(3))
        weight = weight * self.filters(squeezed).sigmoid()[:, :, None, None]
        weight = weight * self.channels(squeezed).sigmoid()[:, None, :, None]
        weight = weight * self.positions(squeezed).sigmoid()[:, None, None, :]
        patches = F.unfold(images, self.kernel, stride=self.stride)
        return torch.bmm(weight.flatten(2).to(patches.dtype), patches).view(n, -1, *size)


def squash(vectors: Tensor) -> Tensor:
    r"""Shorten vectors (…, d) to a length below 1: :math:`(1 - e^{-|s|})\, s / |s|`."""
    length = (vectors.square().sum(dim=-1, keepdim=True) + _EPS).sqrt()  # so that 0 has a gradient
    return vectors * (-torch.expm1(-length) / length)


class RoutedCapsules(nn.Module):
    r"""Capsules from capsules with self-attention in place of iterations :cite:p:`mazzia2021`.

    Every capsule :math:`i` of the layer below predicts every one :math:`j` of this layer,
    :math:`u_{ij} = W_{ij} v_i`; predictions count by how much they agree with the others,

    .. math:: s_j = \sum_i (c_{ij} + b_{ij})\, u_{ij}, \qquad
        c_{ij} = \mathrm{softmax}_j\, \sum_k u_{ij}^\top u_{kj} / \sqrt{d}

    and the sum is squashed.

    Parameters
    ----------
    n_inputs, dim_inputs
        Number and width of the capsules below.
    n_capsules, dim
        Number and width of the capsules.
    """

    def __init__(self, n_inputs: int, dim_inputs: int, n_capsules: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_inputs, dim_inputs, n_capsules, dim) / math.sqrt(dim_inputs))
        self.prior = nn.Parameter(torch.zeros(n_inputs, 1, n_capsules))

    def forward(self, capsules: Tensor) -> Tensor:
        """Map (n, n_inputs, dim_inputs) to (n, n_capsules, dim)."""
        votes = torch.bmm(capsules.transpose(0, 1), self.weight.flatten(2))
        votes = votes.unflatten(2, self.weight.shape[2:])  # (n_inputs, n, n_capsules, dim)
        # The sum over all others is taken before the product: no matrix of pairs.
        agreement = (votes * votes.sum(dim=0)).sum(dim=3) / math.sqrt(votes.shape[3])
        coupling = agreement.softmax(dim=2) + self.prior
        return squash((coupling.unsqueeze(3) * votes).sum(dim=0))


class CapsuleEncoder(nn.Module):
    """Images to capsules: four convolutions, a depth-wise one over the whole map, routing :cite:p:`mazzia2021`.

    Parameters
    ----------
    n_inputs
        Channels of the images.
    side
        Their side in pixels. Below 11, where nothing would be left of them, they are padded.
    n_capsules, dim
        Number and width of the capsules.
    """

    def __init__(self, n_inputs: int, side: int, n_capsules: int, dim: int) -> None:
        super().__init__()
        pad = side < _LEAST
        layers: list[nn.Module] = []
        for n_outputs, kernel, stride in _STEM:
            padding = kernel // 2 if pad else 0
            convolution = nn.Conv2d(n_inputs, n_outputs, kernel, stride, padding, bias=False)
            nn.init.kaiming_normal_(convolution.weight)
            layers += [convolution, BatchNorm2d(n_outputs), nn.ReLU()]
            n_inputs, side = n_outputs, (side + 2 * padding - kernel) // stride + 1
        self.stem = nn.Sequential(*layers)
        # A depth-wise convolution that leaves one position is a weighted sum of each channel.
        self.whole = nn.Parameter(torch.empty(n_inputs, side, side).uniform_(-1 / side, 1 / side))
        self.offset = nn.Parameter(torch.zeros(n_inputs))
        self.routing = RoutedCapsules(_CAPSULES, _CAPSULE_DIM, n_capsules, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, n_inputs, side, side) to capsules (n, n_capsules, dim)."""
        primary = (self.stem(images) * self.whole).sum(dim=(2, 3)) + self.offset
        primary = primary.unflatten(1, (_CAPSULES, _CAPSULE_DIM))
        return self.routing(squash(primary))
