"""Samples of Stem for all spots at once against a loop over spots and samples.

Prints the time per sample of both, their ratio, the largest difference between them, and what a whole section takes in
time and memory. The network is drawn, not trained: that makes no difference to the work.

Both run the same network, so the ratio says how much of a single sample is not arithmetic. `GF/s` are the billions of
operations in the matrix products of the network (attention included) over the time of everything, and `at most` is the
ratio that a batch would have if it ran as fast as one large product of matrices here.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

import stpredict as stp

NETWORKS = [  # hidden, depth, heads, genes; the preset "small", with few genes, those scored in branches.py, and a whole panel
    (32, 2, 2, 20),
    (32, 2, 2, 98),
    (32, 2, 2, 785),
    (48, 2, 4, 98),
    (64, 4, 4, 50),
    (64, 4, 4, 200),
    (128, 4, 4, 50),
    (128, 4, 4, 200),
]


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


def timed(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    start = clock()
    with torch.inference_mode():
        found = function()
    return clock() - start, found


def operations(hidden: int, depth: int, n_genes: int, n_steps: int) -> int:
    """Operations in the matrix products of one sample."""
    per_gene = 2 * hidden * hidden + depth * (24 * hidden * hidden + 4 * n_genes * hidden)
    return n_steps * (n_genes * per_gene + 12 * depth * hidden * hidden)


def fastest(clock: Callable[[], float]) -> float:
    """Operations per second of a large product of matrices."""
    left, right = torch.randn(2, 1024, 1024).unbind()
    seconds = min(timed(lambda: left @ right, clock)[0] for _ in range(20))
    return 2 * 1024**3 / seconds


def compare(sizes: tuple[int, int, int, int], options: argparse.Namespace, clock: Callable[[], float]) -> str:
    """One line of the table: the best of some rounds of either, in turns."""
    hidden, depth, heads, n_genes = sizes
    network = drawn({"hidden": hidden, "depth": depth, "heads": heads}, n_genes, options.spacing)
    features, number = torch.randn(options.spots, 64), torch.arange(options.spots)

    def one(i: int, s: int) -> torch.Tensor:
        return network.sample(features[i : i + 1], 1, identity=number[i : i + 1], first=s)[0, 0]

    def loop() -> torch.Tensor:
        return torch.stack([one(i, s) for i in range(options.looped) for s in range(options.samples)])

    timed(lambda: one(0, 0))
    rounds = []
    for _ in range(options.rounds):
        ours, found = timed(lambda: network.sample(features, options.samples), clock)
        peer, looped = timed(loop, clock)
        rounds.append((ours, peer))
    ours, peer = (min(seconds) for seconds in zip(*rounds, strict=True))
    ours, peer = ours / (options.spots * options.samples), peer / (options.looped * options.samples)
    apart = (looped.unflatten(0, (options.looped, -1)) - found[: options.looped]).abs().max()
    work = operations(hidden, depth, n_genes, int(options.spacing))
    return (
        f"{hidden:6}{depth:6}{n_genes:6}{1e3 * ours:15.2f}{1e3 * peer:11.2f}{peer / ours:8.1f}"
        f"{work / ours / 1e9:7.0f}{work / peer / 1e9:11.0f}{fastest(clock) * peer / work:9.1f}{float(apart):12.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=20)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--looped", type=int, default=1, help="spots of the loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spacing", default="20", help="number of steps")
    parser.add_argument("--threads", type=int, default=1, help="0 for the default of torch")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=range(len(NETWORKS)), help="numbers of the lines to print"
    )
    parser.add_argument("--section", type=int, default=3000, help="spots of a whole section, 0 for none")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    clock = time.process_time if threads == 1 else time.perf_counter  # others may use the machine too

    print(
        f"{options.spots} spots, {options.samples} samples, {options.spacing} steps; loop over {options.looped} spots; "
        f"{threads} threads; {torch.backends.cpu.get_cpu_capability()}"
    )
    print(
        f"{'hidden':>6}{'depth':>6}{'genes':>6}{'ms per sample':>15}{'in a loop':>11}{'ratio':>8}"
        f"{'GF/s':>7}{'in a loop':>11}{'at most':>9}{'difference':>12}"
    )
    for sizes in (NETWORKS[number] for number in options.sizes):
        print(compare(sizes, options, clock), flush=True)
    if options.section:
        hidden, depth, heads, n_genes = NETWORKS[0]
        network = drawn({"hidden": hidden, "depth": depth, "heads": heads}, n_genes, options.spacing)
        features = torch.randn(options.section, 64)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds, found = timed(lambda: network.sample(features, options.samples), clock)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(
            f"{hidden} hidden, {n_genes} genes, {options.section} spots x {options.samples} samples: {seconds:.0f} s, {grown:.0f} MB "
            f"beyond what was held before, {found.nbytes / 2**20:.0f} MB of them the samples"
        )


if __name__ == "__main__":
    main()
