"""The cross-validation of the demonstration in this process and on the workers of a dask client: results, time, throughput.

    python benchmarks/engines.py
    python benchmarks/engines.py --workers 1 2 4 --rounds 3

Every cluster is warm (its workers have imported everything), and all of them are there from the beginning: in every round
each engine has its turn, and times are the smallest of the rounds, so that what else the machine does is the same for all.
CPU seconds are those of all processes of an engine, scheduler included, and tell its overhead also on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    import stpredict as stp
    from stpredict.demo._demo import judge, prepare, read_sections

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    stp.settings.progress = False
    with tempfile.TemporaryDirectory() as folder:
        adata = read_sections(None, Path(folder), 0)
        prepare(adata)
        compare(adata, judge, options.workers, options.rounds)


def compare(adata, judge, workers, rounds):
    """Run and print."""
    import distributed
    import numpy as np

    def run(client):
        own, start, before = adata.copy(), time.perf_counter(), used(client)
        scores = judge(own, client=client)
        return scores, own.obsm["predicted_mlp"], time.perf_counter() - start, used(client) - before

    def used(client):
        there = {} if client is None else client.run(time.process_time)
        return time.process_time() + sum(there.values())

    with ExitStack() as stack:
        engines = {"this process": None}
        for n in workers:
            cluster = distributed.LocalCluster(
                n_workers=n, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
            )
            client = distributed.Client(stack.enter_context(cluster), set_as_default=False)
            engines[f"{n} worker{'s'[: n > 1]}"] = stack.enter_context(client)
        found = {name: run(client) for name, client in engines.items()}  # to warm up
        times = {name: [] for name in engines}
        for _ in range(rounds):
            for name, client in engines.items():
                times[name].append(run(client)[-2:])
    scores, outputs, *_ = found["this process"]
    print(f"the demo: {scores['model'].nunique()} lines, {adata.n_obs} spots, {adata.n_vars} genes, one thread each")
    print("| engine | s | runs per hour | over one process | CPU s | more CPU s | equal |")
    print("|---|---:|---:|---:|---:|---:|---|")
    best = {name: np.min(own, axis=0) for name, own in times.items()}
    for name, (seconds, cpu) in best.items():
        equal = scores.equals(found[name][0]) and np.array_equal(outputs, found[name][1], equal_nan=True)
        more = [f"{mine / first - 1:+.0%}" for mine, first in zip((seconds, cpu), best["this process"], strict=True)]
        over, over_cpu = ("", "") if name == "this process" else more
        rate = 3600 / seconds
        print(f"| {name} | {seconds:.1f} | {rate:.0f} | {over} | {cpu:.1f} | {over_cpu} | {'yes' if equal else 'NO'} |")


if __name__ == "__main__":
    main()
