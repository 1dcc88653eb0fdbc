"""Do networks of DNA beat a ridge on words of the same DNA? On synthetic genes whose regulating element is known.

    python benchmarks/dna.py [--genes 600] [--width 512] [--seeds 2]

Expression follows from the number of copies of a motif in one element; elsewhere the motif means nothing. Chromosomes are
held out in two folds. The ridge reads shares of words of three bases in 16 windows. `gta` reads 16 windows as another network
of DNA would hand them on (shares of the bases and of the motif), without a prompt, with the random language model; the ridge
`(same windows)` reads exactly these, of which the truth is a weighted sum, and the ridge `(no place)` their mean: what is known
when nobody knows where the element is.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import pandas as pd

import stpredict as stp

_GTA: dict[str, Any] = {
    "lm_width": 64,
    "lm_depth": 2,
    "d_align": 64,
    "n_prototypes": 32,
    "vocabulary": 256,
    "prompt": "none",
}
_TRAINING: dict[str, Any] = {"max_epochs": 40, "learning_rate": 2e-3, "batch_size": 32, "patience": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genes", type=int, default=600)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    parts = []
    for seed in range(options.seeds):
        genes = stp.datasets.synthetic_genes(options.genes, width=options.width, seed=seed)
        stp.pp.dna_features(genes, 3, n_windows=16, key_added="X_words")
        stp.pp.dna_features(genes, None, key_added="X_mean")
        genes.obsm["X_windows"] = genes.obsm["sequence_features"].reshape(genes.n_obs, -1)
        genes.uns["stpredict"]["X_windows"] = {"encoder": "windows"}
        models = {
            "ridge": {"model": "ridge", "features": "X_words"},
            "ridge (same windows)": {"model": "ridge", "features": "X_windows"},
            "ridge (no place)": {"model": "ridge", "features": "X_mean"},
            "gta": {"model": "gta", "hyperparameters": _GTA, "training": _TRAINING},
        }
        started = time.perf_counter()
        scores = stp.tl.cross_validate(
            genes, models, 2, target="expr", features="X_words", baselines=["mean"], seed=seed, progress=False
        )
        print(f"seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
        parts.append(scores.assign(sample=scores["sample"] + f" ({seed})"))
    table = stp.tl.summarize(pd.concat(parts, ignore_index=True))
    print(table[["model", "pearson", "spearman", "mse", "r2"]].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
