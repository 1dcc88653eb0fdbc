"""Samples of Stem for all spots at once against a loop over spots and samples.

Prints the time per sample of both, their ratio, the largest difference between them, and what a whole section takes in
time and memory. The network is drawn, not trained: that makes no difference to the work.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

import stpredict as stp

NETWORKS = {
    "small": ({"hidden": 32, "depth": 2, "heads": 2}, 20),
    "middle": ({"hidden": 64, "depth": 4, "heads": 4}, 50),
}


def drawn(options: dict, n_genes: int, spacing: str) -> stp.models.Predictor:
    network = stp.models.build(
        "stem", n_genes, {"features": 64}, hyperparameters={**options, "spacing": spacing}, seed=0
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    network.average.start(network.net)
    network.average_condition.start(network.condition)
    return network.eval()


def timed(function) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    with torch.inference_mode():
        found = function()
    return time.perf_counter() - start, found


def compare(name: str, network: stp.models.Predictor, options: argparse.Namespace) -> str:
    """One line of the table."""
    features, number = torch.randn(options.spots, 64), torch.arange(options.spots)

    def one(i: int, s: int) -> torch.Tensor:
        return network.sample(features[i : i + 1], 1, identity=number[i : i + 1], first=s)[0, 0]

    def loop() -> torch.Tensor:
        return torch.stack([one(i, s) for i in range(options.looped) for s in range(options.samples)])

    timed(lambda: one(0, 0))
    ours, found = timed(lambda: network.sample(features, options.samples))
    peer, looped = timed(loop)
    ours, peer = ours / (options.spots * options.samples), peer / (options.looped * options.samples)
    apart = (looped.unflatten(0, (options.looped, -1)) - found[: options.looped]).abs().max()
    return f"{name:10}{network.n_outputs:6}{1e3 * ours:15.3f}{1e3 * peer:11.3f}{peer / ours:8.1f}{float(apart):12.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", type=int, default=100)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--looped", type=int, default=3, help="spots of the loop")
    parser.add_argument("--spacing", default="20")
    parser.add_argument("--section", type=int, default=3000, help="spots of a whole section, 0 for none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    print(
        f"{options.spots} spots, {options.samples} samples, {options.spacing} steps; loop over {options.looped} spots; one thread"
    )
    print(f"{'':10}{'genes':>6}{'ms per sample':>15}{'in a loop':>11}{'ratio':>8}{'difference':>12}")
    for name, (sizes, n_genes) in NETWORKS.items():
        print(compare(name, drawn(sizes, n_genes, options.spacing), options), flush=True)
    if options.section:
        network, features = drawn(*NETWORKS["small"], options.spacing), torch.randn(options.section, 64)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds, found = timed(lambda: network.sample(features, options.samples))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"small, {options.section} spots x {options.samples} samples: {seconds:.0f} s, {grown:.0f} MB beyond what was held "
            f"before, {found.nbytes / 2**20:.0f} MB of them the samples"
        )


if __name__ == "__main__":
    main()
