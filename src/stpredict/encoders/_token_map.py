"""The spatial tokens of a network, before they are pooled to one vector a tile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from stpredict.encoders._grouped_shufflenet import GroupedShuffleNet
from stpredict.encoders._tokens import ClassAndMean


def token_function(network: Any) -> Callable[[Tensor], Tensor] | None:
    """From normalized tiles (b, 3, side, side) to tokens (b, d, rows, columns) of a network; `None` where it has none.

    A method `tokens` of the network itself; vision transformers, whose class and register tokens are left out; and
    convolutional networks of timm and torchvision, whose last maps are taken.
    """
    if callable(own := getattr(network, "tokens", None)):
        return own
    if isinstance(network, ClassAndMean):
        return lambda tiles: _as_map(network.trunk(tiles), network.prefix)
    if isinstance(network, GroupedShuffleNet):
        return lambda tiles: _shuffled(network, tiles)
    if isinstance(network, nn.Module) and callable(features := getattr(network, "forward_features", None)):  # timm
        return lambda tiles: _as_map(features(tiles), int(getattr(network, "num_prefix_tokens", 0)))
    if isinstance(network, nn.Module) and isinstance(
        maps := getattr(network, "features", None), nn.Module
    ):  # torchvision
        return lambda tiles: maps(tiles)
    return None


def _as_map(tokens: Tensor, n_prefix: int) -> Tensor:
    """Tokens (b, n, d) of a square of patches as maps (b, d, rows, columns); maps stay as they are."""
    if tokens.ndim == 4:
        return tokens
    patches = tokens[:, n_prefix:]
    side = round(patches.shape[1] ** 0.5)
    if side**2 != patches.shape[1]:
        raise ValueError(f"expected the tokens of a square of patches; found {patches.shape[1]} of them")
    return patches.transpose(1, 2).unflatten(2, (side, side))


def _shuffled(network: GroupedShuffleNet, tiles: Tensor) -> Tensor:
    maps = network.bn1(network.conv1(tiles)).relu()
    for number in (1, 2, 3):
        maps = network.get_submodule(f"layer{number}")(maps)
    return maps
