"""CTransPath: a Swin transformer whose patches come from a convolutional stem."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stpredict.encoders._registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn


def _stem(width: int) -> nn.Module:
    """Two 3 x 3 convolutions of stride 2 with batch norm, then 1 x 1 to `width`: (b, 3, h, w) to (…, h/4, w/4)."""
    from torch import nn

    layers: list[nn.Module] = []
    before = 3
    for after in (width // 8, width // 4):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        before = after
    return nn.Sequential(*layers, nn.Conv2d(before, width, 1))


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the published keys into those of current timm.

    There a stage begins with its downsampling, where the published file ends the stage before with it; the buffers of
    the attention windows are computed, not stored.
    """
    state = {key: value for key, value in state.items() if not key.endswith(("relative_position_index", "attn_mask"))}
    if "layers.0.downsample.reduction.weight" not in state:
        return state
    return {
        re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", key): value
        for key, value in state.items()
    }


@register(
    "ctranspath",
    dim=768,
    tile_px=224,
    license="GPL-3.0",
    source="github.com/Xiyue-Wang/TransPath",
    filename="ctranspath.pth",
    citation="wang2022",
    remap=to_timm,
    optional=("head.",),
)
def ctranspath() -> nn.Module:
    """Build CTransPath: Swin-T with a convolutional stem; mean of the last tokens."""
    from stpredict.core._optional import import_torchvision

    network = import_torchvision("timm").create_model(
        "swin_tiny_patch4_window7_224", pretrained=False, num_classes=0, global_pool="avg"
    )
    network.patch_embed.proj = _stem(network.patch_embed.proj.out_channels)
    return network
