"""A small ShuffleNet that was trained on histology: tiles of colon and lung."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.encoders._registry import register

if TYPE_CHECKING:
    from torch import nn


@register(
    "shufflenet_g2_lc25000",
    dim=800,
    tile_px=32,
    mean=(0.0, 0.0, 0.0),
    std=(1 / 255, 1 / 255, 1 / 255),  # it was trained on values of 0 to 255, as they are
    license="MIT",
    source="github.com/Heartfirey/Shufflenet-in-lung-colon-image-classification, as a state dictionary in safetensors",
    filename="shufflenet_g2_lc25000.safetensors",
    citation="zhang2018",
    optional=("linear.",),
)
def shufflenet_g2_lc25000() -> nn.Module:
    """Build ShuffleNet (2 groups), trained on whole tiles of LC25000 that were resized to 32 pixels."""
    from stpredict.encoders._grouped_shufflenet import GroupedShuffleNet

    return GroupedShuffleNet()
