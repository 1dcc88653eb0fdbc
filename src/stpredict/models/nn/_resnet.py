"""ResNets in plain torch, whose parameters are those of torchvision, so that its published weights load."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.nn._batch_norm import BatchNorm2d

_BLOCKS = (3, 4, 6, 3)
_EXPANSION = 4


class _Bottleneck(nn.Module):
    """1 × 1, 3 × 3 (which strides) and 1 × 1 convolutions, and the input added to them."""

    def __init__(self, n_inputs: int, width: int, stride: int) -> None:
        super().__init__()
        n_outputs = _EXPANSION * width
        self.conv1 = nn.Conv2d(n_inputs, width, 1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, n_outputs, 1, bias=False)
        self.bn3 = BatchNorm2d(n_outputs)
        self.downsample = None
        if stride != 1 or n_inputs != n_outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_inputs, n_outputs, 1, stride=stride, bias=False), BatchNorm2d(n_outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        new = F.relu(self.bn1(self.conv1(maps)))
        new = F.relu(self.bn2(self.conv2(new)))
        new = self.bn3(self.conv3(new))
        return F.relu(new + (maps if self.downsample is None else self.downsample(maps)))


class ResNet50(nn.Module):
    """Convolutional part of ResNet-50 :cite:p:`he2016`: (n, 3, h, w) to globally pooled (n, 2048)."""

    n_outputs = 2048

    def __init__(self) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        layers["bn1"], layers["relu"] = BatchNorm2d(64), nn.ReLU(inplace=True)
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
        n_inputs = 64
        for stage, n_blocks in enumerate(_BLOCKS):
            width = 64 * 2**stage
            blocks = []
            for block in range(n_blocks):
                blocks.append(_Bottleneck(n_inputs, width, stride=2 if stage and not block else 1))
                n_inputs = _EXPANSION * width
            layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
        for name, layer in layers.items():
            self.add_module(name, layer)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Pool the maps of (n, 3, h, w) normalized images to (n, 2048)."""
        maps = images
        for layer in self.children():
            maps = layer(maps)
        return maps.mean(dim=(2, 3))

    def load_imagenet(self, path: str | Path) -> None:
        """Load torchvision's weights (safetensors, or a torch file read without unpickling objects).

        Raises
        ------
        ValueError
            When the file is damaged or holds another network.
        """
        from stpredict.core._read_weights import load_into, read_weights

        load_into(self, read_weights(path), f"torchvision's resnet50 in {path}")


class _BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, the first of which strides, and the input added to them."""

    def __init__(self, n_inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or n_inputs != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_inputs, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, maps: Tensor) -> Tensor:
        new = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(new + (maps if self.downsample is None else self.downsample(maps)))


class ResNet18Trunk(nn.Sequential):
    """Convolutions of ResNet-18 :cite:p:`he2016` without pooling: (n, 3, h, w) to (n, 512, h / 32, w / 32).

    Layers are numbered: `0` and `1` are the first convolution and its norm, `4` to `7` the four stages.
    """

    n_outputs = 512

    def __init__(self) -> None:
        stages = [
            nn.Sequential(
                _BasicBlock(max(64, 32 * 2**stage), 64 * 2**stage, stride=2 if stage else 1),
                _BasicBlock(64 * 2**stage, 64 * 2**stage, stride=1),
            )
            for stage in range(4)
        ]
        first = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        super().__init__(
            first, nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1), *stages
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def load_imagenet(self, path: str | Path) -> None:
        """Load torchvision's weights (safetensors, or a torch file read without unpickling objects).

        Raises
        ------
        ValueError
            When the file is damaged or holds another network.
        """
        from stpredict.core._read_weights import load_into, read_weights

        names = {"conv1": "0", "bn1": "1"} | {f"layer{i}": str(i + 3) for i in range(1, 5)}
        state = {
            ".".join([names.get(first, first), *rest]): value
            for key, value in read_weights(path).items()
            for first, *rest in [key.split(".")]
        }
        load_into(self, state, f"torchvision's resnet18 in {path}")
