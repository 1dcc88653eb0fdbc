"""Registered encoders that need no account: the embedded one, and a small ImageNet network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.encoders._color_texture_names import color_texture_names
from stpredict.encoders._registry import register

if TYPE_CHECKING:
    from torch import nn


@register(
    "color-texture",
    dim=len(color_texture_names()),
    tile_px=112,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    license="BSD-3-Clause",
    citation="ruifrok2001",
)
def color_texture() -> nn.Module:
    """Build the embedded encoder: color, texture and nuclear statistics."""
    from stpredict.encoders._color_texture import ColorTexture

    return ColorTexture()


@register(
    "mobilenet_v2",
    dim=1280,
    tile_px=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    license="Apache-2.0",
    source="the test data of google-coral (github.com/google-coral/test_data), in torchvision's layout",
    filename="mobilenet_v2.safetensors",
    citation="sandler2018",
    optional=("classifier.",),
)
def mobilenet_v2() -> nn.Module:
    """Build MobileNetV2 of ImageNet, for weights whose input is scaled to -1…1."""
    from stpredict.encoders._torchvision import headless

    return headless("mobilenet_v2")[0]
