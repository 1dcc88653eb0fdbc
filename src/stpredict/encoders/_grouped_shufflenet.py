"""ShuffleNet with grouped pointwise convolutions, as published for tiles of 32 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STEM, _GROUPS = 24, 2
_STAGES = ((200, 4), (400, 8), (800, 4))  # width and number of blocks


class GroupedShuffleNet(nn.Module):
    """Maps of a stem without stride and three stages, averaged :cite:p:`zhang2018`.

    Tiles of any size from 32 pixels on give features of the same width, (n, 800).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        before = _STEM
        for number, (width, n_blocks) in enumerate(_STAGES, start=1):
            blocks = [_Block(before, width, 2), *(_Block(width, width, 1) for _ in range(n_blocks - 1))]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = width

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, 800) of images (n, 3, h, w)."""
        maps = self.bn1(self.conv1(images)).relu()
        for number in range(1, len(_STAGES) + 1):
            maps = self.get_submodule(f"layer{number}")(maps)
        return maps.mean(dim=(2, 3))


class _Block(nn.Module):
    """Grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1; with stride 2 beside the average of the input."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        width = after - before if stride > 1 else after
        middle = width // 4
        # The channels of the stem are too few for groups.
        self.groups, self.stride = 1 if before == _STEM else _GROUPS, stride
        self.conv1 = nn.Conv2d(before, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, width, 1, groups=_GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        changed = self.bn1(self.conv1(maps)).relu()
        changed = changed.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        changed = self.bn3(self.conv3(self.bn2(self.conv2(changed)).relu()))
        if self.stride == 1:
            return (changed + maps).relu()
        around = nn.functional.avg_pool2d(maps, 3, stride=2, padding=1)
        return torch.cat([changed, around], dim=1).relu()
