"""A convolutional network as it is, but quicker to run: without batch norm, channels last, few tiles at a time."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace
from torch.fx.proxy import TraceError
from torch.nn.utils.fusion import fuse_conv_bn_eval

_KNOWN = ("torch", "torchvision", "timm", "stpredict")  # whose layers take any layout, and treat every tile by itself
_PIXELS, _TILES = 2**18, 16  # of a step on a processor, for every thread: the maps of more do not stay in its caches
_CLOSE = 1e-3


class Quick:
    """What a convolutional network finds, in less time: the batch norms are part of the convolutions before them.

    On a processor the weights are laid out with channels last, and tiles are taken a few at a time. The network itself is
    left as it is; one that is not convolutional, whose path depends on what it sees, or with layers of others, is called as
    it comes.

    Parameters
    ----------
    network
        In evaluation mode, from normalized tiles (b, 3, tile_px, tile_px) to features (b, dim).
    tile_px
        Side of a tile.

    Attributes
    ----------
    changed
        Whether another network is called than the one given.
    """

    def __init__(self, network: nn.Module, tile_px: int) -> None:
        quick = _folded(network, tile_px)
        self.changed = quick is not None
        self.network = network if quick is None else quick

    def __call__(self, tiles: Tensor) -> Tensor:
        if not self.changed or tiles.device.type != "cpu":
            return self.network(tiles)
        at_once = max(1, min(_TILES, _PIXELS // (tiles.shape[2] * tiles.shape[3]))) * torch.get_num_threads()
        tiles = tiles.contiguous(memory_format=torch.channels_last)
        return torch.cat([self.network(some) for some in tiles.split(at_once)])


def _folded(network: nn.Module, tile_px: int) -> nn.Module | None:
    """A copy of the network without batch norms; `None` where there is none that finds the same."""
    kinds = {type(module) for module in network.modules()}
    known = all(kind.__module__.split(".")[0] in _KNOWN for kind in kinds)
    if not known or not kinds >= {nn.Conv2d, nn.BatchNorm2d}:
        return None
    device = next(network.parameters()).device
    tile = torch.randn(1, 3, tile_px, tile_px, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode(False), torch.no_grad():
        try:
            quick = _without_norms(symbolic_trace(copy.deepcopy(network)))
            if device.type == "cpu":
                quick = quick.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            found, wanted = quick(tile), network(tile)
        except (TraceError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
            return None
    if not (isinstance(found, Tensor) and isinstance(wanted, Tensor) and found.shape == wanted.shape):
        return None
    return quick if (found - wanted).abs().max() <= _CLOSE * wanted.abs().max() else None


def _without_norms(traced: GraphModule) -> GraphModule:
    """Fold every batch norm that follows a convolution, and nothing else does, into that."""
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes)
    for node in list(traced.graph.nodes):
        before: Any = node.args[0] if node.args else None
        if node.op != "call_module" or getattr(before, "op", "") != "call_module":
            continue
        norm, convolution = modules[node.target], modules[before.target]
        alone = len(before.users) == calls[before.target] == 1
        if type(norm) is nn.BatchNorm2d and type(convolution) is nn.Conv2d and alone and norm.running_mean is not None:
            traced.set_submodule(before.target, fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
