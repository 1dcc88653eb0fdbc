"""The encoder that every other one must beat: six color statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.encoders._registry import register

if TYPE_CHECKING:
    from torch import nn


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
