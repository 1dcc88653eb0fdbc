"""DenseNet-121 in plain torch, with torchvision's parameter names so that its published weights load."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.nn._batch_norm import BatchNorm2d

_BLOCKS = (6, 12, 24, 16)
_GROWTH = 32
_OLD_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)$")


class _Layer(nn.Module):
    """Bottleneck to 4 × growth channels, then a 3 × 3 convolution to `growth` new ones."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.norm1 = BatchNorm2d(n_inputs)
        self.conv1 = nn.Conv2d(n_inputs, 4 * _GROWTH, 1, bias=False)
        self.norm2 = BatchNorm2d(4 * _GROWTH)
        self.conv2 = nn.Conv2d(4 * _GROWTH, _GROWTH, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        new = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(maps))))))
        return torch.cat([maps, new], dim=1)


class DenseNet121(nn.Module):
    """Convolutional part of DenseNet-121 :cite:p:`huang2017`: (n, 3, h, w) to globally pooled (n, 1024).

    Parameters
    ----------
    rectified
        Whether the maps go through a ReLU before they are pooled, as in front of the published classifier; without it
        they are pooled as the last norm leaves them, about half of the values below 0.
    """

    n_outputs = 1024

    def __init__(self, *, rectified: bool = True) -> None:
        super().__init__()
        self.rectified = rectified
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv0"] = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        layers["norm0"], layers["relu0"] = BatchNorm2d(64), nn.ReLU(inplace=True)
        layers["pool0"] = nn.MaxPool2d(3, stride=2, padding=1)
        width = 64
        for block, n_layers in enumerate(_BLOCKS, start=1):
            dense: OrderedDict[str, nn.Module] = OrderedDict(
                (f"denselayer{i + 1}", _Layer(width + i * _GROWTH)) for i in range(n_layers)
            )
            layers[f"denseblock{block}"] = nn.Sequential(dense)
            width += n_layers * _GROWTH
            if block < len(_BLOCKS):
                transition: OrderedDict[str, nn.Module] = OrderedDict()
                transition["norm"], transition["relu"] = BatchNorm2d(width), nn.ReLU(inplace=True)
                transition["conv"] = nn.Conv2d(width, width // 2, 1, bias=False)
                transition["pool"] = nn.AvgPool2d(2)
                layers[f"transition{block}"] = nn.Sequential(transition)
                width //= 2
        layers["norm5"] = BatchNorm2d(width)
        self.features = nn.Sequential(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Pool the maps of (n, 3, h, w) normalized images to (n, 1024)."""
        maps = self.features(images)
        return (F.relu(maps) if self.rectified else maps).mean(dim=(2, 3))

    def load_imagenet(self, path: str | Path) -> None:
        """Load torchvision's weights (safetensors, or a torch file read without unpickling objects).

        Raises
        ------
        ValueError
            When the file is damaged or holds another network.
        """
        from stpredict.core._read_weights import load_into, read_weights

        state = {_OLD_NAME.sub(r"\1\2", key): value for key, value in read_weights(path).items()}
        load_into(self, state, f"torchvision's densenet121 in {path}")
