"""What auxiliary genes cost, and what they bring where it is known which of them help.

    python benchmarks/auxiliary.py [--seeds 3]

Cost: an `mlp` on 1,000 spots with 50 primary and 2,000 auxiliary genes, batches of 128 spots. An epoch of the primary genes
alone, of all genes with one weight (`all`), and of a learned cut (`dkgsb`, with the 8 pairs of batches of the default, the 64
of the paper, and unrolled); processor seconds, the mean of epochs after the first two, and the memory of a fit above that of
the process before, each in a process of its own.

Truth: 20 noisy primary genes, 50 auxiliary ones of the same four programmes with little noise, and 500 of noise alone, in six
patients; r is with what is behind the primary genes of the sixth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch

from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config, with_primary
from stpredict.training.targets import ExpressionTarget

LAYER = {"method": "layer", "layer": "made"}
VARIANTS = {
    "primary genes only": None,
    "all": {"auxiliary": "all"},
    "dkgsb, 8 pairs": {"auxiliary": "dkgsb"},
    "dkgsb, 64 pairs": {"auxiliary": "dkgsb", "cut_pairs": 64},
    "dkgsb, 8 pairs, unrolled": {"auxiliary": "dkgsb", "cut_gradient": "unrolled"},
}


def made(seed: int, n: int, n_primary: int, n_informative: int, n_noise: int) -> tuple[ArraySet, np.ndarray]:
    """Patients with genes of which the first ones are primary, and these without their noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 20)).astype(np.float32)
    programmes = np.tanh(features @ rng.normal(size=(20, 4)) / 3)
    clear = programmes @ rng.normal(size=(4, n_primary + n_informative))
    sd = np.repeat([3.0, 0.5], [n_primary, n_informative])
    values = np.concatenate([clear + sd * rng.normal(size=clear.shape), rng.normal(size=(n, n_noise))], axis=1)
    values /= values.std(axis=0)
    values[:, n_primary : n_primary + n_informative] *= 1.5
    section = np.arange(n) * 6 // n
    kind = ExpressionTarget(tuple(f"g{i}" for i in range(values.shape[1])), LAYER)
    data = ArraySet(section, section, {"features": features}, target=values.astype(np.float32), kind=kind)
    return data, clear[:, :n_primary]


def resident(name: str) -> float:
    """Resident memory of this process in MB, now (`VmRSS`) or at most (`VmHWM`); NaN where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    return next(float(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name)) / 1e3


def cost(variant: str, n_epochs: int = 4) -> dict[str, float]:
    """Processor seconds of an epoch, and memory in MB; for a fresh process."""
    from stpredict.core._optional import mend_torchvision

    mend_torchvision()
    import lightning.pytorch  # noqa: F401  before anything is measured

    torch.set_num_threads(1)
    data, _ = made(0, 1000, 50, 200, 1800)
    changes = VARIANTS[variant]
    primary = [f"g{i}" for i in range(50)]
    seconds, before = [], resident("VmRSS")
    for epochs in (2, 2 + n_epochs):
        settings = {"max_epochs": epochs, "patience": 0, "primary": primary, "refit": False}
        config = train_config("mlp", settings | (changes or {}))
        rows = with_primary(data, config)
        start = process_time()
        fit_arrays("mlp", rows if changes else rows.only_primary(), config=config)
        seconds.append(process_time() - start)
    return {"s/epoch": (seconds[1] - seconds[0]) / n_epochs, "MB": resident("VmHWM") - before}


def costs() -> pd.DataFrame:
    """What each variant takes, and over the primary genes alone."""
    rows = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--cost", variant]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows[variant] = json.loads(printed.splitlines()[-1])
    table = pd.DataFrame(rows).T
    table["times an epoch of the primary genes"] = table["s/epoch"] / table["s/epoch"].iloc[0]
    return table


def truth(seeds: int) -> pd.DataFrame:
    """Correlation of the primary genes with what is behind them, and the genes that the cut keeps."""
    rows = []
    for seed in range(seeds):
        data, clear = made(seed, 240, 20, 50, 500)
        test = data.section == 5
        for name, changes in {
            "primary genes only": None,
            "all": VARIANTS["all"],
            "dkgsb": VARIANTS["dkgsb, 8 pairs"],
        }.items():
            settings = {"max_epochs": 40, "patience": 40, "learning_rate": 3e-3, "cut_learning_rate": 0.01}
            settings |= {"primary": [f"g{i}" for i in range(20)]} | (changes or {})
            config = train_config("mlp", settings)
            rows_of = with_primary(data.take(~test), config)
            rows_of = rows_of if changes else rows_of.only_primary()
            fit = fit_arrays("mlp", rows_of, hyperparameters={"hidden": 32}, config=config, seed=seed)
            mean = predict_arrays(fit.network, data.take(test)).mean
            r = np.mean([np.corrcoef(mean[:, g], clear[test, g])[0, 1] for g in range(20)])
            rows.append({"seed": seed, "genes": name, "r": r, "kept of 550": fit.auxiliary.get("n_kept", np.nan)})
    return pd.DataFrame(rows).pivot(index="genes", columns="seed")


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cost", metavar="VARIANT", help="only print what this one takes")
    options = parser.parse_args()
    if options.cost:
        print(json.dumps(cost(options.cost)))
        return
    print(costs().round(3).to_string())
    print(f"\n{truth(options.seeds).round(3).to_string()}")


if __name__ == "__main__":
    main()
