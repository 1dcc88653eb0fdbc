"""PiDiNet :cite:p:`su2021`: edges by convolutions of pixel differences; without weights of its own here."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTH = 60
_DILATED = 24
_KINDS = ("center", "around", "outward", "plain")  # of the layers, in turn
_CLOCKWISE = [3, 0, 1, 6, 4, 2, 7, 8, 5]  # the pixel before each of a 3 x 3 square, around its center
_OUTER, _INNER = [0, 2, 4, 10, 14, 20, 22, 24], [6, 7, 8, 11, 13, 16, 17, 18]  # of a 5 x 5 square
_RING = [0, 1, 2, 3, 5, 6, 7, 8]
_PREFIX = "module."


class DifferenceConv(nn.Conv2d):
    """A 3 x 3 convolution over pixels or over their differences.

    Differences are to the center (`"center"`), to the next pixel around it (`"around"`), or between the pixels two and
    one away from it in eight directions (`"outward"`). All are convolutions whose weights are put together first.
    """

    def __init__(self, kind: str, n_inputs: int, n_outputs: int, *, groups: int = 1, bias: bool = True) -> None:
        super().__init__(n_inputs, n_outputs, 3, padding=1, groups=groups, bias=bias)
        self.kind = kind

    def forward(self, maps: Tensor) -> Tensor:
        weight, padding = self.weight, 1
        flat = weight.flatten(2)
        if self.kind == "center":
            flat = flat.clone()
            flat[:, :, 4] -= weight.sum(dim=(2, 3))
            weight = flat.view_as(weight)
        elif self.kind == "around":
            weight = (flat - flat[:, :, _CLOCKWISE]).view_as(weight)
        elif self.kind == "outward":
            wide = flat.new_zeros(*flat.shape[:2], 25)
            wide[:, :, _OUTER], wide[:, :, _INNER] = flat[:, :, 1:], -flat[:, :, 1:]
            weight, padding = wide.unflatten(2, (5, 5)), 2
        return F.conv2d(maps, weight, self.bias, padding=padding, groups=self.groups)


class _Block(nn.Module):
    """A depth-wise difference convolution, ReLU and a 1 x 1 convolution, with a residual; perhaps at half the size."""

    def __init__(self, kind: str, n_inputs: int, n_outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        if stride > 1:
            self.pool = nn.MaxPool2d(2, stride=2)
            self.shortcut = nn.Conv2d(n_inputs, n_outputs, 1)
        self.conv1 = DifferenceConv(kind, n_inputs, n_inputs, groups=n_inputs, bias=False)
        self.conv2 = nn.Conv2d(n_inputs, n_outputs, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.pool(maps) if self.stride > 1 else maps
        new = self.conv2(F.relu(self.conv1(maps)))
        return new + (self.shortcut(maps) if self.stride > 1 else maps)


class _Dilations(nn.Module):
    """A 1 x 1 convolution and the sum of four dilated ones."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_inputs, n_outputs, 1)
        for i, reach in enumerate((5, 7, 9, 11), start=1):
            layer = nn.Conv2d(n_outputs, n_outputs, 3, dilation=reach, padding=reach, bias=False)
            self.add_module(f"conv2_{i}", layer)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.conv1(F.relu(maps))
        dilated = [layer(maps) for name, layer in self.named_children() if name != "conv1"]
        return torch.stack(dilated).sum(dim=0)


class _Attention(nn.Module):
    """A weight for each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 4, 1)
        self.conv2 = nn.Conv2d(4, 1, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return maps * torch.sigmoid(self.conv2(self.conv1(F.relu(maps))))


class _Reduce(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return self.conv(maps)


class PiDiNet(nn.Module):
    """Four stages of four layers at falling sizes, each read out as edges, and their weighted mean.

    It comes without weights: those of its authors, trained on natural images, are for research only.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = [_WIDTH * factor for factor in (1, 2, 4, 4)]
        self.init_block = DifferenceConv(_KINDS[0], 3, _WIDTH, bias=False)
        before = _WIDTH
        for stage, width in enumerate(widths):
            for layer in range(1 if stage == 0 else 0, 4):
                first = stage > 0 and layer == 0
                block = _Block(_KINDS[layer], before, width, stride=2 if first else 1)
                self.add_module(f"block{stage + 1}_{layer if stage == 0 else layer + 1}", block)
                before = width
        self.dilations = nn.ModuleList(_Dilations(width, _DILATED) for width in widths)
        self.attentions = nn.ModuleList(_Attention(_DILATED) for _ in widths)
        self.conv_reduces = nn.ModuleList(_Reduce(_DILATED) for _ in widths)
        self.classifier = nn.Conv2d(len(widths), 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Strength of the edges (n, 1, h, w) in 0–1 of standardized images (n, 3, h, w)."""
        maps, found = self.init_block(images), []
        blocks = dict(self.named_children())
        for stage in range(4):
            for layer in range(1, 4 if stage == 0 else 5):
                maps = blocks[f"block{stage + 1}_{layer}"](maps)
            edges = self.conv_reduces[stage](self.attentions[stage](self.dilations[stage](maps)))
            found.append(F.interpolate(edges, images.shape[2:], mode="bilinear", align_corners=False))
        return torch.sigmoid(self.classifier(torch.cat(found, dim=1)))

    def load(self, path: str | Path) -> None:
        """Load the authors' weights (safetensors, or a torch file read without unpickling objects).

        Raises
        ------
        ValueError
            When the file is damaged or holds another network.
        """
        from stpredict.core._read_weights import load_into, read_weights

        state = {key.removeprefix(_PREFIX): value for key, value in read_weights(path).items()}
        load_into(self, state, f"PiDiNet in {path}")
