"""The same cross-validation in this process and on the workers of a dask client: results, time and throughput.

    python benchmarks/engines.py
    python benchmarks/engines.py --workers 1 2 4 --spots 200 --rounds 3

Every cluster is warm (its workers have imported everything) and every time the smallest of a few rounds. Overhead is that of
one worker over this process.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    import distributed
    import numpy as np

    import stpredict as stp

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--spots", type=int, default=300)
    parser.add_argument("--genes", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    stp.settings.progress = False
    adata = stp.datasets.synthetic_cohort(
        n_patients=options.patients, n_sections=1, n_spots=options.spots, n_genes=options.genes
    )
    stp.pp.image_features(adata)
    stp.pp.normalize(adata)
    models = {"ridge": "ridge", "mlp": {"model": "mlp", "training": {"max_epochs": options.epochs, "patience": 0}}}
    n_fits = options.patients * len(models)

    def timed(client):
        own, best = adata.copy(), np.inf
        for _ in range(options.rounds):
            start = time.perf_counter()
            scores = stp.tl.cross_validate(
                own, models, client=client, metrics=["pearson"], ceiling=False, baselines=False
            )
            best = min(best, time.perf_counter() - start)
        return scores, own.obsm["predicted_mlp"], best

    timed(None)
    scores, outputs, serial = timed(None)
    print(f"{n_fits} fits of {options.patients} folds, {adata.n_obs} spots, {options.genes} genes, one thread each")
    print("| engine | s | fits per minute | over one process | equal |\n|---|---|---|---|---|")
    print(f"| this process | {serial:.1f} | {60 * n_fits / serial:.0f} | | |", flush=True)
    for n in options.workers:
        with (
            distributed.LocalCluster(
                n_workers=n, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
            ) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            timed(client)
            found, there, seconds = timed(client)
        equal = scores.equals(found) and np.array_equal(outputs, there, equal_nan=True)
        rate, over = 60 * n_fits / seconds, seconds / serial - 1
        print(f"| {n} workers | {seconds:.1f} | {rate:.0f} | {over:+.0%} | {equal} |", flush=True)


if __name__ == "__main__":
    main()
