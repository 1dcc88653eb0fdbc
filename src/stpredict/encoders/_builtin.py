"""Registered encoders that need no account: the embedded ones, and a small ImageNet network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.encoders._color_texture_names import color_texture_names
from stpredict.encoders._registry import register
from stpredict.encoders._segment_nuclei import UM_PER_PX
from stpredict.encoders._summarize_nuclei import nuclei_names

if TYPE_CHECKING:
    from torch import nn


@register(
    "color-texture",
    dim=len(color_texture_names()),
    tile_px=112,
    context=(1.0, 5.0),  # by benchmarks/defaults.py
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
    "color-statistics",
    dim=6,
    tile_px=112,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    license="BSD-3-Clause",
    citation="stricker1995",
)
def color_statistics() -> nn.Module:
    """Build the encoder that knows the mean and the standard deviation of red, green and blue, and nothing else."""
    from stpredict.encoders._reference_networks import ColorStatistics

    return ColorStatistics()


@register(
    "nuclei",
    dim=len(nuclei_names()),
    tile_px=224,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    um_per_px=UM_PER_PX,
    license="BSD-3-Clause",
    citation="ruifrok2001",
)
def nuclei() -> nn.Module:
    """Build the encoder that finds, measures and counts nuclei."""
    from stpredict.encoders._nuclei import Nuclei

    return Nuclei()


@register(
    "random-filters",
    dim=288,
    tile_px=112,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    license="BSD-3-Clause",
    citation="saxe2011",
)
def random_filters() -> nn.Module:
    """Build the bank of random convolutions."""
    from stpredict.encoders._random_filters import RandomFilters

    return RandomFilters()


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
