"""How long tables of genes take at the size of a large bulk cohort: 20,000 genes × 1,000 slides.

    python benchmarks/gene_tables.py [--genes 20000] [--slides 1000] [--models 2]

Synthetic values. `tl.compare_models` gets a row per model, slide and gene: 40 million of them for two models.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import stpredict as stp


def timed(what: str, call: Callable[[], Any]) -> Any:
    """Print how long a call takes, by the clock and of the processor, and the most memory so far."""
    start, used = time.perf_counter(), time.process_time()
    result = call()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    took, used = time.perf_counter() - start, time.process_time() - used
    print(f"| {what} | {took:.1f} | {used:.1f} | {peak:.1f} |", flush=True)
    return result


def bulk(n: int, g: int, rng: np.random.Generator) -> None:
    """Slides against each other."""
    truth = rng.normal(size=(n, g)).astype(np.float32)
    obs = pd.DataFrame({"patient": [f"P{i}" for i in range(n)]}, index=[f"S{i}" for i in range(n)])
    slides = ad.AnnData(truth, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(g)]))
    slides.layers["log2"] = truth
    slides.obs["er"] = np.where(rng.random(n) < 0.7, "positive", "negative")
    follows = (np.arange(g) < g // 4).astype(np.float32)
    for slot in ("predicted", "predicted_baseline_permuted"):
        noise = rng.normal(size=truth.shape).astype(np.float32)
        values = noise + follows * truth * (slot == "predicted")
        slides.obsm[slot] = pd.DataFrame(values, slides.obs_names, slides.var_names)
    names = slides.var_names.to_numpy()
    sets = {f"T{i}": rng.choice(names, int(rng.integers(10, 300)), replace=False) for i in range(2000)}
    options: dict[str, Any] = {"comparators": ["permuted"], "layer": "log2"}
    table = timed("well_predicted", lambda: stp.tl.well_predicted(slides, **options))
    timed("well_predicted, two groups", lambda: stp.tl.well_predicted(slides, groupby="er", **options))
    timed(f"enrich, well and badly predicted, {len(sets):,} sets", lambda: stp.tl.enrich(table, sets))


def scored(n: int, g: int, rng: np.random.Generator) -> pd.DataFrame:
    """A score per slide and gene, 2 % of them undefined."""
    score = rng.normal(0.2, 0.2, (n, g)).astype(np.float32)
    score[rng.random((n, g)) < 0.02] = np.nan
    at = np.repeat(np.arange(n), g)
    return pd.DataFrame(
        {
            "sample": pd.Categorical.from_codes(at, [f"S{i}" for i in range(n)]),
            "patient": pd.Categorical.from_codes(at // 2, [f"P{i}" for i in range(-(-n // 2))]),
            "gene": pd.Categorical.from_codes(np.tile(np.arange(g), n), [f"G{i}" for i in range(g)]),
            "pearson": score.ravel(),
            "leaky": False,
        }
    )


def of_models(rows: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """The same of several models, each a little better than the one before it."""
    scores = pd.concat(
        [
            rows.assign(pearson=rows["pearson"] + rng.normal(0.001 * i, 0.05, len(rows)).astype(np.float32))
            for i in range(n)
        ],
        ignore_index=True,
    )
    scores["model"] = pd.Categorical.from_codes(np.repeat(np.arange(n), len(rows)), [f"m{i}" for i in range(n)])
    return scores


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--models", type=int, default=2)
    options = parser.parse_args()
    n, g = options.slides, options.genes
    rng = np.random.default_rng(0)
    stp.tl.compare_models(of_models(scored(4, 3, rng), 2, rng))  # what is imported at the first call is not counted
    print(
        f"{g:,} genes × {n:,} slides\n\n| call | seconds | of the processor | peak memory so far (GB) |\n|---|---|---|---|",
        flush=True,
    )
    bulk(n, g, rng)
    rows = scored(n, g, rng)
    call = {"by": "sample", "column": "pearson", "above": 0.3}
    timed("replication, 2 % of the scores undefined", lambda: stp.tl.replication(rows, **call))
    scores = of_models(rows, options.models, rng)
    timed(
        f"compare_models, {options.models} models, {len(scores) / 1e6:.0f} million rows",
        lambda: stp.tl.compare_models(scores),
    )


if __name__ == "__main__":
    main()
