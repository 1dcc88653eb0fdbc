"""Memory and time of training `hist` on grids of increasing size, and of metrics of all genes at once.

`train`: sections of side x side cells, all of them tissue, 64 features and 1,000 or half as many genes, one section per
step. Each line is a process of its own. Its memory is the peak above that after the imports (and a fit of a few cells,
which brings them about), the data included. Its time is that of the processor (one thread), the difference between fits
of several epochs and of one. `data` is what the target of the sections alone takes.
`metrics`: 1,000 genes of 128 x 128 cells, all at once against a loop over genes.

python benchmarks/grids.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np

_N_FEATURES = 64
_N_SECTIONS = 2  # one to train on, one to choose the number of epochs by


def resident(name: str) -> float:
    """Resident memory of this process in GB, now (`VmRSS`) or at most (`VmHWM`) since the last reset; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1e6


def make_sections(side: int, n_genes: int):
    """Two sections of side x side cells whose genes follow the features of the cell and of its neighbors."""
    import anndata as ad
    import pandas as pd
    from scipy.ndimage import uniform_filter

    import stpredict as stp

    rng = np.random.default_rng(0)
    row, col = np.mgrid[:side, :side].reshape(2, -1)
    weight = rng.normal(size=(_N_FEATURES, n_genes)).astype(np.float32) / _N_FEATURES
    features, values = [], []
    for _ in range(_N_SECTIONS):
        grid = rng.normal(size=(side, side, _N_FEATURES)).astype(np.float32)
        features.append(grid.reshape(-1, _N_FEATURES))
        values.append(uniform_filter(grid, (3, 3, 0)).reshape(-1, _N_FEATURES) @ weight)
    names = np.repeat([f"s{i}" for i in range(_N_SECTIONS)], side * side)
    obs = pd.DataFrame(
        {
            "sample": names,
            "patient": names,
            "array_row": np.tile(row, _N_SECTIONS),
            "array_col": np.tile(col, _N_SECTIONS),
        },
        index=[f"c{i}" for i in range(len(names))],
    )
    adata = ad.AnnData(np.concatenate(values), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(n_genes)]))
    adata.obsm["X_toy"] = np.concatenate(features)
    adata.obsm["spatial"] = obs[["array_col", "array_row"]].to_numpy() * 100.0
    adata.uns["stpredict"] = {
        "X_toy": {"encoder": "toy", "dim": _N_FEATURES},
        "normalize": {"method": "log1p"},
    }
    stp.pp.grid(adata)
    return adata


def measure(side: int, width: int, n_genes: int) -> None:
    """Print the peak above the imports in GB, and the processor seconds of an epoch; runs in a process of its own."""
    import torch

    import stpredict as stp

    def fit(adata, width: int, epochs: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            stp.tl.fit(
                adata, "hist", hyperparameters={"width": width}, baselines=False, path=Path(folder) / "model",
                training={"batch_size": 1, "max_epochs": epochs, "patience": 0, "device": "cpu"},
            )  # fmt: skip

    torch.set_num_threads(1)
    stp.settings.progress = False
    fit(make_sections(16, 4), 2, 1)  # loads every library
    before = resident("VmRSS")
    adata = make_sections(side, n_genes)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the data
    more = 2 if side > 64 else 10  # epochs; those of small grids take less than what a fit takes beside them
    seconds = []
    for epochs in (1, 1 + more):
        start = process_time()
        fit(adata, width, epochs)
        seconds.append(process_time() - start)
    print(json.dumps({"GB": resident("VmHWM") - before, "seconds": (seconds[1] - seconds[0]) / more}))


def train(sides: tuple[int, ...], widths: tuple[int, ...], genes: tuple[int, ...]) -> None:
    """Print the table of memory and time."""
    print(f"{'side':>5}{'width':>7}{'genes':>7}{'rows':>8}{'data GB':>9}{'peak GB':>9}{'s/epoch':>9}")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for side in sides:
        for width in widths:
            for n_genes in genes:
                command = [sys.executable, __file__, "--measure", str(side), str(width), str(n_genes)]
                result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                found = json.loads(result.stdout.splitlines()[-1])
                rows = _N_SECTIONS * side**2
                print(
                    f"{side:5}{width:7}{n_genes:7}{rows:8}{rows * n_genes * 4 / 1e9:9.2f}{found['GB']:9.2f}"
                    f"{found['seconds']:9.2f}",
                    flush=True,
                )


def metrics(side: int, n_genes: int, repeats: int) -> None:
    """Print the processor seconds of two metrics, all genes at once against a loop over genes, and their ratio."""
    from scipy.stats import pearsonr

    from stpredict.metrics import pearson, rmse

    rng = np.random.default_rng(0)
    truth = rng.standard_normal((side**2, n_genes), dtype=np.float32)
    predicted = 0.5 * truth + rng.standard_normal(truth.shape, dtype=np.float32)

    def pearson_loop() -> np.ndarray:
        return np.array([pearsonr(truth[:, g], predicted[:, g]).statistic for g in range(n_genes)])

    def rmse_loop() -> np.ndarray:
        return np.array([np.sqrt(np.mean((truth[:, g] - predicted[:, g]) ** 2)) for g in range(n_genes)])

    print(f"\n{side**2} rows, {n_genes} genes, float32")
    for name, ours, loop in (("pearson", pearson, pearson_loop), ("rmse", rmse, rmse_loop)):
        error = np.abs(ours(truth, predicted) - loop()).max()
        seconds = [_least(call, repeats) for call in (lambda call=ours: call(truth, predicted), loop)]
        print(
            f"{name:8} {seconds[0]:.2f} s, loop over genes {seconds[1]:.2f} s, ratio {seconds[1] / seconds[0]:.1f}, "
            f"largest difference {error:.0e}"
        )


def _least(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = process_time()
        call()
        times.append(process_time() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small grids, few genes")
    parser.add_argument("--measure", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    n_genes = 100 if options.quick else options.genes
    sides, widths = ((16, 32), (8,)) if options.quick else ((32, 64, 128), (16, 64))
    train(sides, widths, (n_genes, n_genes // 2))
    metrics(sides[-1], n_genes, options.repeats)


if __name__ == "__main__":
    main()
