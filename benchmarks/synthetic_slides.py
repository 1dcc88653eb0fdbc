"""Compare networks on bags with the ridge and other comparators on simulated slides whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/synthetic_slides.py [--quick] [--published] [--out out/synthetic_slides]

Each seed draws a cohort, folds of its patients and weights anew. A cell is the mean over seeds, `sd` the standard
deviation between them. All predictions are out of fold. `r` is the mean correlation across patients over all genes with
signal, over those of response and hypoxia alone (which depend on the arrangement of the tissue, and are genes with signal
too), and over the flat genes (which depend on nothing). `calls` counts genes that are well predicted, against the model's
own untrained and permuted versions (for the ridge those of sequoia) and against the ridge as well; `false` are the flat
genes among the former. `s` are the seconds of one fit, without comparators.

Networks are smaller than published and stop after 10 epochs without improvement instead of 20, unless `--published`.
Results of each part are kept in `--out` and not computed again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from time import perf_counter

import anndata as ad
import numpy as np
import pandas as pd
import torch

import stpredict as stp

N_FOLDS = 5
SMALL = {
    "sequoia": {"depth": 2, "heads": 4, "d_head": 32},
    "he2rna": {},
    "slide_transformer": {"depth": 2, "heads": 4, "d_head": 32, "d_hidden": 128},
}
TRAINING = {"patience": 10}
SHOWN = ["mean", "ridge", "untrained sequoia", "permuted sequoia", *SMALL]
CONTEXT = ("response", "hypoxia")


def make_bags(options: argparse.Namespace, seed: int) -> ad.AnnData:
    """Bags of one cohort, read from the slides on, with log2 of its expression."""
    path = options.out / f"bags-{seed}.h5ad"
    if not path.is_file():
        tables = {}
        with tempfile.TemporaryDirectory() as folder:
            cohort = stp.datasets.synthetic_slides(
                options.patients, 1, options.genes, seed,
                image_dir=folder, slide_um=options.slide_um, microns_per_pixel=options.mpp,
            )  # fmt: skip
            for name, row in cohort.obs.iterrows():
                slide = stp.io.open_slide(row["path"], patient=row["patient"])
                stp.pp.tissue(slide)
                stp.pp.tiles(slide, tile_px=64)
                stp.pp.image_features(slide)
                tables[name] = slide.tables["color-texture_tiles"]
        adata = stp.pp.bag(tables, expression=cohort, n_tokens=options.tokens)
        stp.pp.normalize(adata, unit="fpkm-uq")
        adata.uns.pop("synthetic_slides", None)  # its composition of every tile is not needed any more
        adata.write_h5ad(path)
    return ad.read_h5ad(path)


def seconds_per_fit(adata: ad.AnnData, model: str, settings: dict, seed: int) -> float:
    """Time of one fit on the training patients of the first fold, without comparators."""
    split = next(iter(stp.cohorts.grouped_k_fold(adata, N_FOLDS, seed=seed)))
    train = np.zeros(adata.n_obs, dtype=bool)
    train[split.train] = True
    start = perf_counter()
    stp.tl.fit(adata, model, train, features="color-texture", baselines=False, seed=seed, **settings)
    return perf_counter() - start


def expression(options: argparse.Namespace, model: str, seed: int) -> pd.DataFrame:
    """One row per line of the table that a network and its comparators give."""
    path = options.out / f"{model}-{'published' if options.published else 'small'}-{seed}.csv"
    if path.is_file():
        return pd.read_csv(path)
    adata = make_bags(options, seed)
    settings = {} if options.published else {"hyperparameters": SMALL[model], "training": TRAINING}
    baselines = ("mean", "ridge", "untrained", "permuted")
    stp.tl.fit_folds(adata, model, N_FOLDS, baselines=baselines, seed=seed, **settings)
    scores = stp.tl.evaluate(adata, metrics=("pearson", "rmse"))
    scores["program"] = scores["gene"].map(adata.var["program"].astype(str))
    labels = {"untrained": f"untrained {model}", "permuted": f"permuted {model}"}
    rows = []
    for label, part in scores.groupby("model", sort=False):
        own = part.set_index("program")
        row = {
            "model": labels.get(label, label),
            "r signal": own.drop("flat")["pearson"].mean(),
            "r context": own.loc[list(CONTEXT), "pearson"].mean(),
            "r flat": own.loc["flat", "pearson"].mean(),
            "rmse": part["rmse"].mean(),
        }
        if label == "ridge":
            adata.obsm["predicted"] = adata.obsm["predicted_baseline_ridge"]
        if label in (model, "ridge"):
            calls = stp.tl.well_predicted(adata, comparators=("untrained", "permuted"))
            row["calls"] = int(calls["well_predicted"].sum())
            row["false"] = int(calls["well_predicted"][calls["gene"].map(~adata.var["signal"])].sum())
        if label == model:
            row["and ridge"] = int(stp.tl.well_predicted(adata)["well_predicted"].sum())
        if label in (model, "ridge", "mean"):
            row["s"] = seconds_per_fit(adata, label, settings if label == model else {}, seed)
        rows.append(row)
    table = pd.DataFrame(rows).assign(seed=seed)
    table.to_csv(path, index=False)
    return table


def risk(options: argparse.Namespace, seed: int) -> pd.DataFrame:
    """C-index over pairs of patients of one fold, of sequoia with a Cox loss and of what it is compared with."""
    path = options.out / f"risk-{'published' if options.published else 'small'}-{seed}.csv"
    if path.is_file():
        return pd.read_csv(path)
    adata = make_bags(options, seed)
    settings = {} if options.published else {"hyperparameters": SMALL["sequoia"], "training": TRAINING}
    stp.tl.fit_folds(adata, "sequoia", N_FOLDS, target=stp.targets.FollowUp("time", "event"), seed=seed, **settings)
    adata.obs["linear"] = linear_cox(adata)
    rows = []
    for name, column in (
        ("sequoia, Cox loss", "risk"),
        ("linear Cox, 10 components", "linear"),
        ("true log hazard", "log_hazard"),
    ):
        adata.obs[f"{column}_fold"] = adata.obs["risk_fold"]
        found = stp.tl.survival(adata, column, group=None, n_boot=1).iloc[0]
        rows.append({"risk": name, "C-index": found["c_index_folds"], "events": found["n_events"]})
    table = pd.DataFrame(rows).assign(seed=seed)
    table.to_csv(path, index=False)
    return table


def linear_cox(adata: ad.AnnData) -> np.ndarray:
    """Out-of-fold log hazard of a ridge Cox regression on principal components of the mean features."""
    from lifelines import CoxPHFitter
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    result = np.empty(adata.n_obs)
    for fold in adata.obs["risk_fold"].unique():
        test = (adata.obs["risk_fold"] == fold).to_numpy()
        reduce = make_pipeline(StandardScaler(), PCA(10, whiten=True, random_state=0))
        reduce.fit(adata.obsm["X_color-texture"][~test].astype(float))
        parts = pd.DataFrame(reduce.transform(adata.obsm["X_color-texture"].astype(float)), index=adata.obs_names)
        follow_up = adata.obs[["time", "event"]].astype(float)
        model = CoxPHFitter(penalizer=0.5).fit(parts.join(follow_up)[~test], "time", "event")
        result[test] = model.predict_log_partial_hazard(parts[test])
    return result


def tabulate(rows: pd.DataFrame, by: str, digits: dict[str, int]) -> pd.DataFrame:
    """Mean and standard deviation over seeds."""

    def cell(values: pd.Series, places: int) -> str:
        values = values.dropna()
        if not len(values):
            return "-"
        spread = f" sd {values.std(ddof=1):.{places}f}" if len(values) > 1 else ""
        return f"{values.mean():.{places}f}{spread}"

    lines = {
        name: {column: cell(part[column], places) for column, places in digits.items()}
        for name, part in rows.groupby(by, sort=False)
    }
    return pd.DataFrame.from_dict(lines, orient="index")


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/synthetic_slides"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--genes", type=int, default=240)
    parser.add_argument("--slide-um", type=float, default=1200.0)
    parser.add_argument("--mpp", type=float, default=2.0, help="µm per pixel of the slides")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--published", action="store_true", help="hyperparameters and training as published")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stp.settings.progress = sys.stderr.isatty()
    # Parts of other cohorts are kept apart.
    options.out /= f"{options.patients}-{options.genes}-{options.slide_um:g}-{options.mpp:g}-{options.tokens}"
    options.out.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory() as cache:
        stp.settings.cache_dir = Path(cache)
        parts, risks = [], []
        for seed in range(1 if options.quick else options.seeds):
            for model in SMALL:
                table = expression(options, model, seed)
                parts.append(table[table["model"].isin(SHOWN) & ((model == "sequoia") | (table["model"] == model))])
            risks.append(risk(options, seed))
    size = "published" if options.published else f"smaller than published {SMALL}, {TRAINING}"
    print(
        f"{options.patients} patients, {options.genes} genes, slides of {options.slide_um:g} µm at {options.mpp:g} µm/px, "
        f"{options.tokens} tokens, {N_FOLDS} folds of patients, {len(risks)} seeds, {options.threads} thread\n"
        f"networks: {size}\n"
    )
    places = {"r signal": 3, "r context": 3, "r flat": 3, "rmse": 3, "calls": 1, "false": 1, "and ridge": 1, "s": 1}
    rows = pd.concat(parts)
    rows["model"] = pd.Categorical(rows["model"], SHOWN, ordered=True)
    print(tabulate(rows.sort_values("model", kind="stable").astype({"model": str}), "model", places).to_string())
    print()
    print(tabulate(pd.concat(risks), "risk", {"C-index": 3, "events": 1}).to_string())


if __name__ == "__main__":
    main()
