"""Pearson correlation of all genes at once against a loop over genes with scipy.

Prints the time per gene of both on the same data, and their ratio. The loop runs on a subset of the genes.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.stats import pearsonr

from stpredict.metrics import pearson


def best(function, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--observations", type=int, default=3000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--subset", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    shape = (options.observations, options.genes)
    truth = rng.standard_normal(shape, dtype=np.float32)
    predicted = 0.5 * truth + rng.standard_normal(shape, dtype=np.float32)

    def loop() -> np.ndarray:
        return np.array([pearsonr(truth[:, g], predicted[:, g]).statistic for g in range(options.subset)])

    error = np.abs(pearson(truth[:, : options.subset], predicted[:, : options.subset]) - loop()).max()
    ours = best(lambda: pearson(truth, predicted), options.repeats) / options.genes
    peer = best(loop, options.repeats) / options.subset
    print(f"{options.observations} observations, {options.genes} genes, float32")
    print(f"{'':24}{'µs per gene':>12}")
    print(f"{'stpredict.metrics':24}{ours * 1e6:12.1f}")
    print(f"{'scipy loop':24}{peer * 1e6:12.1f}   ({options.subset} genes)")
    print(f"ratio {peer / ours:.1f}, largest difference {error:.1e}")


if __name__ == "__main__":
    main()
