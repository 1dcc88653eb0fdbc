"""ShuffleNetV2 x0.5 in plain torch, with torchvision's parameter names so that its published weights load."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stpredict.models.nn._batch_norm import BatchNorm2d

_REPEATS = (4, 8, 4)
_WIDTHS = (24, 48, 96, 192, 1024)


class ShuffleNet(nn.Module):
    """Stages of ShuffleNetV2 x0.5 :cite:p:`ma2018`, without the max pooling after the first convolution."""

    n_outputs = _WIDTHS[2:]

    def __init__(self) -> None:
        super().__init__()
        stem, *widths, last = _WIDTHS
        self.conv1 = nn.Sequential(nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False), BatchNorm2d(stem), nn.ReLU())
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(_Unit(before, after, 2), *(_Unit(after, after, 1) for _ in range(repeats - 1)))
            for before, after, repeats in zip((stem, *widths), widths, _REPEATS, strict=False)
        )
        self.conv5 = nn.Sequential(nn.Conv2d(widths[-1], last, 1, bias=False), BatchNorm2d(last), nn.ReLU())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of (n, 3, h, w) after `stage3` (96 channels), `stage4` (192) and `conv5` (1024)."""
        third = self.stage3(self.stage2(self.conv1(images)))
        fourth = self.stage4(third)
        return third, fourth, self.conv5(fourth)

    def load_imagenet(self, path: str | Path) -> None:
        """Load torchvision's weights (safetensors, or a torch file read without unpickling objects).

        Raises
        ------
        ValueError
            When the file is damaged or holds another network.
        """
        from stpredict.core._read_weights import load_into, read_weights

        load_into(self, read_weights(path), f"torchvision's shufflenet_v2_x0_5 in {path}")


class _Unit(nn.Module):
    """Half of the channels through depthwise and pointwise convolutions, then both halves interleaved.

    With stride 2 both halves see all channels, and the other one is convolved as well.
    """

    def __init__(self, n_inputs: int, n_outputs: int, stride: int) -> None:
        super().__init__()
        half = n_outputs // 2
        self.stride = stride
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(*_depthwise(n_inputs, stride), *_pointwise(n_inputs, half))
        self.branch2 = nn.Sequential(
            *_pointwise(n_inputs if stride > 1 else half, half), *_depthwise(half, stride), *_pointwise(half, half)
        )

    def forward(self, maps: Tensor) -> Tensor:
        kept, changed = (maps, maps) if self.stride > 1 else maps.chunk(2, dim=1)
        joined = torch.stack([self.branch1(kept), self.branch2(changed)], dim=2)
        return joined.flatten(1, 2)  # channels of the two branches in turn


def _pointwise(n_inputs: int, n_outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(n_inputs, n_outputs, 1, bias=False), BatchNorm2d(n_outputs), nn.ReLU()]


def _depthwise(width: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False), BatchNorm2d(width)]
