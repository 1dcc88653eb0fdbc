"""Profiles of patients by every road, in one table: from slides, from tiles, and from maps of models of spots.

    OMP_NUM_THREADS=1 python benchmarks/bulk.py [--seeds 3]

Slides of `stpredict.datasets.synthetic_slides`, color-texture features of their tiles, bulk expression of their patients.
Networks on bags learn the bulk expression. Models of spots learn counts that are drawn from the expected expression of each
tile, as if the slide had been sequenced in place: a lucky case, since bulk expression is all that most cohorts have. Their
maps are averaged over the tiles of a slide on the linear scale (`stpredict.tl.pseudobulk`). `measured spots` is that average
of the counts themselves: what a perfect map would have.

Each seed draws a cohort, folds of its patients and weights anew; everything is out of fold; a cell is the mean over seeds,
`sd` the standard deviation between them. `r` is the correlation across patients, averaged over all genes with signal, over
those of response and hypoxia alone (which depend on the arrangement of the tissue) and over the flat genes (which depend on
nothing). `across genes` is the rank correlation over genes within a patient, and `centered` what is left of it once every
gene is taken relative to its mean. `gene mean` is the prediction that is the same for everybody.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from synthetic_slides import tabulate

import stpredict as stp

N_FOLDS, MEMBERS = 4, 5
BAGS: dict[str, dict[str, Any]] = {
    "ridge": {},
    "hist2rna": {},
    "deeppt": {"code": 64, "hidden": 128},
    "he2rna": {},
    "sequoia": {"depth": 2, "heads": 4, "d_head": 32},
}
SPOTS: dict[str, dict[str, Any]] = {"ridge": {}, "sequoia_spot": {"depth": 2, "heads": 4, "d_head": 32}}
TRAINING = {"patience": 10, "max_epochs": 60}
DEPTH = 3000  # counts of a tile


def make(options: argparse.Namespace, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Bags with bulk expression, and the same tiles as spots with counts."""
    tables: dict[str, ad.AnnData] = {}
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        cohort = stp.datasets.synthetic_slides(
            options.patients, 1, options.genes, seed, image_dir=folder, slide_um=options.slide_um, microns_per_pixel=2.0
        )
        for name, row in cohort.obs.iterrows():
            slide = stp.io.open_slide(row["path"], patient=row["patient"])
            stp.pp.tissue(slide)
            stp.pp.tiles(slide, tile_px=64)
            stp.pp.image_features(slide)
            tables[name] = slide.tables["color-texture_tiles"]
    bags = stp.pp.bag(tables, expression=cohort, n_tokens=options.tokens)
    stp.pp.normalize(bags, unit="fpkm-uq")
    parts = []
    for name, table in tables.items():
        truth = stp.datasets.expected_tiles(cohort, name)
        row, col = (table.obs[each].to_numpy(dtype=int) for each in ("array_row", "array_col"))
        expected = truth[np.minimum(row, len(truth) - 1), np.minimum(col, truth.shape[1] - 1)]
        inside = np.isfinite(expected).all(axis=1)
        expected = expected[inside] / expected[inside].sum(axis=1, keepdims=True)
        spots = ad.AnnData(rng.poisson(DEPTH * expected).astype(np.float32), var=cohort.var[["program", "signal"]])
        spots.obs = table.obs[inside].assign(sample=name, patient=str(cohort.obs.loc[name, "patient"]))
        spots.obs_names = [f"{name}_{i}" for i in range(spots.n_obs)]
        values = table.obsm.get("X_color-texture", table.X)
        spots.obsm["X_color-texture"] = np.asarray(values)[inside]
        parts.append(spots)
    spots = ad.concat(parts, merge="same")
    spots.layers["counts"] = spots.X.copy()
    stp.pp.normalize(spots, method="log1p")
    return bags, spots


def ensemble(bags: ad.AnnData, seed: int, settings: dict[str, Any]) -> ad.AnnData:
    """Out-of-fold means of networks that were each trained without one of five parts of the training patients."""
    found = stp.tl.pseudobulk(bags)
    for split in stp.cohorts.grouped_k_fold(bags, N_FOLDS, seed=seed):
        train, test = bags[split.train].copy(), bags[split.test].copy()
        members = stp.tl.fit_folds(train, "deeppt", MEMBERS, baselines=False, seed=seed, **settings)
        stp.tl.predict(test, members)
        own = stp.tl.pseudobulk(test)
        found.X[found.obs_names.get_indexer(own.obs_names)] = own.X
    return found


def profiles(options: argparse.Namespace, seed: int) -> tuple[dict[str, ad.AnnData], pd.DataFrame]:
    """Predicted profiles of all patients by model, and what is known of the genes."""
    bags, spots = make(options, seed)
    found: dict[str, ad.AnnData] = {}
    for model, hyperparameters in BAGS.items():
        settings = {} if model == "ridge" else {"hyperparameters": hyperparameters, "training": TRAINING}
        stp.tl.fit_folds(bags, model, N_FOLDS, baselines=["mean"], seed=seed, features="color-texture", **settings)
        found[f"{model} of slides"] = stp.tl.pseudobulk(bags)
        if model == "deeppt":
            settings["features"] = "color-texture"
            found[f"deeppt of slides, {MEMBERS} members"] = ensemble(bags, seed, settings)
    features = {"slot": "color-texture", "scaling": "global"}  # what differs between slides is what is asked for
    for model, hyperparameters in SPOTS.items():
        settings = {} if model == "ridge" else {"hyperparameters": hyperparameters, "training": TRAINING}
        stp.tl.fit_folds(spots, model, N_FOLDS, baselines=False, seed=seed, features=features, **settings)
        found[f"{model} of spots"] = stp.tl.pseudobulk(spots, scale="linear")
    measured = stp.tl.pseudobulk(spots, measured="counts")
    measured.X = measured.layers.pop("measured")
    found["measured spots"] = measured
    return found, bags.var


def scores(options: argparse.Namespace, seed: int) -> pd.DataFrame:
    """One row per model."""
    found, genes = profiles(options, seed)
    table = stp.tl.pseudobulk_agreement(found, correlation="pearson")
    ranks = stp.tl.pseudobulk_agreement(found, correlation="spearman")
    rows = []
    for model, part in table.groupby("model", sort=False):
        r = part.loc[part["kind"] == "across patients"].set_index("gene")["r"].astype(float)
        program = genes.loc[r.index, "program"].astype(str)
        people = ranks[(ranks["model"] == model) & (ranks["kind"] == "across genes")]
        rows.append(
            {
                "model": model,
                "r signal": r[program != "flat"].mean(),
                "r context": r[program.isin(["response", "hypoxia"])].mean(),
                "r flat": r[program == "flat"].mean(),
                "across genes": people["r"].astype(float).mean(),
                "centered": people["r_centered"].astype(float).mean(),
            }
        )
    return pd.DataFrame(rows).assign(seed=seed)


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--genes", type=int, default=100)
    parser.add_argument("--slide-um", type=float, default=700.0)
    parser.add_argument("--tokens", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stp.settings.progress = False
    with tempfile.TemporaryDirectory() as cache:
        stp.settings.cache_dir = Path(cache)
        rows = pd.concat([scores(options, seed) for seed in range(options.seeds)])
    print(
        f"{options.patients} patients, {options.genes} genes, slides of {options.slide_um:g} µm at 2 µm/px, {options.tokens} "
        f"tokens, {N_FOLDS} folds of patients, {options.seeds} seeds\nnetworks: {BAGS | SPOTS}, {TRAINING}\n"
    )
    places = dict.fromkeys(("r signal", "r context", "r flat", "across genes", "centered"), 3)
    print(tabulate(rows, "model", places).to_string())


if __name__ == "__main__":
    main()
