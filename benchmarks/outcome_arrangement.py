"""Outcomes that depend on the arrangement of the tissue alone: the network on maps beside the mean of the maps.

    OMP_NUM_THREADS=1 python benchmarks/outcome_arrangement.py [--kind clustered] [--outcome response] [--patients 80]

Two classes have the same mean map and differ in where the cells lie: `clustered` has tumor cells in clumps against tumor
cells that are dispersed, at the same range of proportions, `excluded` has immune cells inside the tumor against immune
cells in the stroma, both in clumps. Patients have one slide each, so that folds are of patients. Defaults of the network
were chosen on `excluded`; `clustered` is what they are judged by.
"""

from __future__ import annotations

import argparse
import json
import warnings
from time import perf_counter

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter

import stpredict as stp

COLUMNS = {
    "response": ["auroc", "auroc_low", "auroc_high", "auroc_folds", "balanced_accuracy"],
    "survival": ["c_index", "c_low", "c_high", "c_index_folds", "logrank_p"],
}
TARGETS = {"response": stp.targets.Classes("response"), "survival": stp.targets.FollowUp("time", "event")}


def simulate(
    kind: str, n: int, seed: int, *, shape: tuple[int, int] = (32, 28), noise: float = 0.7
) -> tuple[ad.AnnData, dict[str, np.ndarray]]:
    """Slides with `obs["response"]`, and maps (2 channels, rows, columns) whose mean does not depend on it."""
    rng = np.random.default_rng([seed, 0 if kind == "clustered" else 1])
    response = rng.permutation(np.arange(n) % 2 == 0)
    row, col = np.indices(shape)
    maps = {}
    for i, y in enumerate(response):
        center = np.array(shape) / 2 + rng.normal(0, 1, 2)
        radius = np.array(shape) / 2 * rng.uniform(0.8, 1.1, 2)
        tissue = ((row - center[0]) / radius[0]) ** 2 + ((col - center[1]) / radius[1]) ** 2 < 1
        share = rng.uniform(0.2, 0.4)
        if kind == "clustered":
            tumor = _top(rng.normal(size=shape) if not y else _smooth(rng, shape), tissue, share)
            values = np.stack([tumor, 1 - tumor])
        else:
            tumor = _top(_smooth(rng, shape), tissue, 0.5)
            side = (tumor == 1) == bool(y)
            values = np.stack([tumor, _top(_smooth(rng, shape) + 10 * side, tissue, share)])
        cells = values + rng.normal(0, noise, values.shape)
        cells[:, ~tissue] = np.nan
        maps[f"s{i}"] = cells
    time, censored = rng.exponential(np.where(response, 1, 8)), rng.exponential(8, n)
    obs = pd.DataFrame(
        {
            "patient": [f"p{i}" for i in range(n)], "response": response,
            "time": np.minimum(time, censored), "event": time <= censored,
        },
        index=list(maps),
    )  # fmt: skip
    return ad.AnnData(obs=obs), maps


def _smooth(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return gaussian_filter(rng.normal(size=shape), rng.uniform(1.5, 2.5))


def _top(values: np.ndarray, tissue: np.ndarray, share: float) -> np.ndarray:
    """1 in the given share of the tissue, where the values are highest."""
    return (values > np.quantile(values[tissue], 1 - share)).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["clustered", "excluded"], default="clustered")
    parser.add_argument("--outcome", choices=["response", "survival"], default="response")
    parser.add_argument("--patients", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--training", type=json.loads, default={})
    parser.add_argument("--hyperparameters", type=json.loads, default={})
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    stp.settings.progress = False
    tables = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        slides, maps = simulate(options.kind, options.patients, seed)
        start = perf_counter()
        result = stp.tl.fit_outcome(
            slides, TARGETS[options.outcome], maps=maps, seed=seed, hyperparameters=options.hyperparameters,
            training={"device": "cpu"} | options.training,
        )  # fmt: skip
        seconds = perf_counter() - start
        tables.append(result.scores[["model", *COLUMNS[options.outcome]]].assign(seed=seed))
        epochs = result.history.query("inner < 0").groupby("fold").size().to_dict()
        print(f"seed {seed}: {seconds:.0f} s, epochs of the folds {epochs}", flush=True)
        print(tables[-1].round(3).to_string(index=False), flush=True)
    table = pd.concat(tables).drop(columns="seed").groupby("model", sort=False).mean()
    print("\nmean over seeds\n" + table.round(3).to_string())


if __name__ == "__main__":
    main()
