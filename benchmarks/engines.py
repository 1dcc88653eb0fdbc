"""The same cross-validation in this process and on the workers of a dask client: results, time and throughput.

    python benchmarks/engines.py
    python benchmarks/engines.py --workers 1 2 4 --spots 400 --rounds 6

Every cluster is warm (its workers have imported everything), and all of them are there from the beginning: in every round
each engine has its turn, and times are the smallest of the rounds, so that what else the machine does is the same for all.
CPU seconds are those of all processes of an engine, scheduler included, and tell its overhead also on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from contextlib import ExitStack

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    import distributed
    import numpy as np

    import stpredict as stp

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--spots", type=int, default=200)
    parser.add_argument("--genes", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=4)
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

    def run(client):
        own, start, before = adata.copy(), time.perf_counter(), used(client)
        scores = stp.tl.cross_validate(own, models, client=client, metrics=["pearson"], ceiling=False, baselines=False)
        return scores, own.obsm["predicted_mlp"], time.perf_counter() - start, used(client) - before

    def used(client):
        there = {} if client is None else client.run(time.process_time)
        return time.process_time() + sum(there.values())

    with ExitStack() as stack:
        engines = {"this process": None}
        for n in options.workers:
            cluster = distributed.LocalCluster(
                n_workers=n, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
            )
            client = distributed.Client(stack.enter_context(cluster), set_as_default=False)
            engines[f"{n} worker{'s'[: n > 1]}"] = stack.enter_context(client)
        found = {name: run(client) for name, client in engines.items()}  # to warm up
        times = {name: [] for name in engines}
        for _ in range(options.rounds):
            for name, client in engines.items():
                times[name].append(run(client)[-2:])
    scores, outputs, *_ = found["this process"]
    print(f"{n_fits} fits of {options.patients} folds, {adata.n_obs} spots, {options.genes} genes, one thread each")
    print("| engine | s | fits per minute | over one process | CPU s | more CPU s | equal |")
    print("|---|---:|---:|---:|---:|---:|---|")
    best = {name: np.min(own, axis=0) for name, own in times.items()}
    for name, (seconds, cpu) in best.items():
        equal = scores.equals(found[name][0]) and np.array_equal(outputs, found[name][1], equal_nan=True)
        more = [f"{mine / first - 1:+.0%}" for mine, first in zip((seconds, cpu), best["this process"], strict=True)]
        over, over_cpu = ("", "") if name == "this process" else more
        rate = 60 * n_fits / seconds
        print(f"| {name} | {seconds:.1f} | {rate:.0f} | {over} | {cpu:.1f} | {over_cpu} | {'yes' if equal else 'NO'} |")


if __name__ == "__main__":
    main()
