"""Compare targets on simulated cohorts of known truth: log1p, Pearson residuals and counts, few counts and many.

    python benchmarks/counts_target.py [--seeds 3] [--depths 500 10000] [--models ridge mlp]

Leave one patient out of four, color-texture features. `r` is the correlation on the scale of the target, `residual r` that
with Pearson residuals, `D` the deviance explained; mean over the genes that the tissue has a part in, and, `of null genes`,
over all genes with counts redrawn with one constant proportion per section at the depths of the spots.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings

import pandas as pd
from anndata import AnnData

import stpredict as stp

TARGETS = {
    "log1p": ({"method": "log1p"}, None),
    "residuals": ({"method": "pearson_residuals"}, None),
    "counts": ({"method": "pearson_residuals"}, stp.targets.Counts()),
    "counts, negative binomial": (
        {"method": "pearson_residuals"}, stp.targets.Counts(family="negative_binomial"),
    ),
}  # fmt: skip
NAMES = {"pearson": "r", "pearson_residual": "residual r", "deviance_explained": "D"}
METRICS = ("pearson", "pearson_residual", "deviance_explained")


def cohort(depth: float, seed: int) -> AnnData:
    """Four patients with two sections of 150 spots and 60 genes, with features."""
    adata = stp.datasets.synthetic_cohort(4, 2, 60, seed, n_spots=150, counts_per_spot=depth, microns_per_pixel=2.0)
    stp.pp.image_features(adata)
    return adata


def scored(adata: AnnData, models: list[str], target: str) -> pd.DataFrame:
    """Scores of models under a target, one row per section and gene."""
    how, asked = TARGETS[target]
    stp.pp.normalize(adata, layer="counts", **how)
    return stp.tl.cross_validate(adata, models, target=asked, metrics=METRICS, ceiling=False, baselines=False)


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depths", type=float, nargs="+", default=[500.0, 10_000.0])
    parser.add_argument("--models", nargs="+", default=["ridge", "mlp"])
    options = parser.parse_args()
    stp.settings.progress = False
    with tempfile.TemporaryDirectory() as folder:
        stp.settings.cache_dir = folder
        rows = []
        for depth in options.depths:
            for seed in range(options.seeds):
                adata = cohort(depth, seed)
                signal = list(adata.var_names[adata.var["signal"]])
                null = adata.copy()
                null.layers["counts"] = stp.datasets.null_counts(
                    adata.layers["counts"], adata.obs["sample"].to_numpy(), rng=seed
                )
                for target in TARGETS:
                    real, nothing = (scored(each, options.models, target) for each in (adata, null))
                    real = real[real["gene"].isin(signal)].groupby("model")[list(METRICS)].mean()
                    nothing = nothing.groupby("model")[list(METRICS)].mean()
                    both = real.rename(columns=NAMES).join(nothing.rename(columns=NAMES), rsuffix=" of null genes")
                    both.insert(0, "target", target)
                    both.insert(0, "seed", seed)
                    both.insert(0, "counts per spot", int(depth))
                    print(both.round(3).reset_index().to_string(index=False, header=not rows), flush=True)
                    rows.append(both.reset_index())
    table = pd.concat(rows)
    print("\nmean over seeds")
    print(table.groupby(["counts per spot", "model", "target"]).mean().drop(columns="seed").round(3).to_string())


if __name__ == "__main__":
    main()
