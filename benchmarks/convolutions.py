"""What convolutional encoders gain by being run without batch norm, with channels last and few tiles at a time.

    python benchmarks/convolutions.py [--tiles 64] [--threads 1] [--rounds 2]

Time per tile of a network as its library makes it, on all tiles at once, and as an encoder runs it; the largest difference of the
features, in units of the largest feature. Weights are drawn: that makes no difference to the work. Times are processor
seconds with one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stpredict.core._optional import import_torchvision
from stpredict.encoders._grouped_shufflenet import GroupedShuffleNet
from stpredict.encoders._quick import Quick

NETWORKS = {"shufflenet (32 px)": 32, "mobilenet_v2": 224, "resnet18": 224, "resnet50": 224, "densenet121": 224}


def built(name: str) -> nn.Module:
    """A network in evaluation mode."""
    torch.manual_seed(0)
    if name.startswith("shufflenet"):
        return GroupedShuffleNet().eval()
    return import_torchvision("torchvision.models").get_model(name, weights=None).eval()


def timed(function: Callable[[Tensor], Tensor], tiles: Tensor, rounds: int) -> tuple[float, Tensor]:
    """Least milliseconds per tile over some rounds, and what was found."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter  # others may use the machine too
    found, best = function(tiles[:2]), float("inf")
    for _ in range(rounds):
        start = clock()
        found = function(tiles)
        best = min(best, clock() - start)
    return 1e3 * best / len(tiles), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.tiles} tiles, {options.threads} threads; {torch.backends.cpu.get_cpu_capability()}")
    print(f"{'':20}{'ms per tile':>12}{'as it comes':>13}{'ratio':>7}{'difference':>12}")
    for name, px in NETWORKS.items():
        network, tiles = built(name), torch.randn(options.tiles, 3, px, px)
        with torch.inference_mode():
            ours, found = timed(Quick(network, px), tiles, options.rounds)
            peer, wanted = timed(network, tiles, options.rounds)
        apart = float((found - wanted).abs().max() / wanted.abs().max())
        print(f"{name:20}{ours:12.1f}{peer:13.1f}{peer / ours:7.1f}{apart:12.1e}", flush=True)


if __name__ == "__main__":
    main()
