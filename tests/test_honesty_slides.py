"""What the networks on bags have to show, and must not show, on slides whose truth is known."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

SEEDS = (0, 1, 2)
N_FOLDS = 3
# Smaller than published, with larger steps and less patience, for two cores; the other network is as published.
TRAINING = {"patience": 5, "learning_rate": 2e-3, "max_epochs": 30}
NETWORKS = {"sequoia": {"depth": 2, "heads": 4, "d_head": 32}, "he2rna": {}}


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> ad.AnnData:
    """Forty patients with a slide each, read from the files on; log2 of their bulk expression."""
    pytest.importorskip("wsidata")
    folder = tmp_path_factory.mktemp("slides")
    cohort = stp.datasets.synthetic_slides(40, n_genes=120, image_dir=folder, slide_um=850, microns_per_pixel=2.0)
    tables = {}
    for name, row in cohort.obs.iterrows():
        slide = stp.io.open_slide(row["path"], patient=row["patient"])
        stp.pp.tissue(slide)
        stp.pp.tiles(slide, tile_px=64)
        stp.pp.image_features(slide)
        tables[name] = slide.tables["color-texture_tiles"]
    adata = stp.pp.bag(tables, expression=cohort, n_tokens=40)
    stp.pp.normalize(adata, unit="fpkm-uq")
    return adata


@pytest.fixture(scope="module")
def predicted(bags: ad.AnnData) -> dict[tuple[str, int], ad.AnnData]:
    """Out-of-fold predictions of each network with each seed, folds of patients and weights drawn anew."""
    results = {}
    for network, hyperparameters in NETWORKS.items():
        for seed in SEEDS:
            adata = bags.copy()
            baselines = ("mean", "ridge", "untrained", "permuted") if network == "sequoia" else False
            stp.tl.fit_folds(
                adata, network, N_FOLDS, hyperparameters=hyperparameters, training=TRAINING, baselines=baselines,
                seed=seed,
            )  # fmt: skip
            results[network, seed] = adata
    return results


def scores(adata: ad.AnnData) -> pd.DataFrame:
    """Mean correlation and error over the genes with signal, by model."""
    table = stp.tl.evaluate(adata)
    signal = table["gene"].map(adata.var["signal"]).to_numpy(dtype=bool)
    return table[signal].groupby("model")[["pearson", "rmse"]].mean()


def test_sequoia_beats_he2rna_and_the_mean_on_patients_it_has_not_seen(predicted) -> None:
    errors = []
    for seed in SEEDS:
        own, other = scores(predicted["sequoia", seed]), scores(predicted["he2rna", seed])
        assert not predicted["sequoia", seed].obs["predicted_leaky"].any()
        assert own.loc["sequoia", "pearson"] > other.loc["he2rna", "pearson"] + 0.05
        assert own.loc["sequoia", "pearson"] > own.loc["mean", "pearson"] + 0.5
        assert own.loc["sequoia", "rmse"] < own.loc["mean", "rmse"]
        errors.append(own.loc["sequoia", "rmse"] - other.loc["he2rna", "rmse"])
    assert np.mean(errors) < 0


def test_genes_with_signal_are_called_and_others_are_not(predicted) -> None:
    for seed in SEEDS:
        adata = predicted["sequoia", seed]
        table = stp.tl.well_predicted(adata, comparators=("untrained", "permuted")).set_index("gene")
        called = table["well_predicted"] & ~adata.var["signal"]
        assert table["well_predicted"].sum() > 40
        assert called.sum() <= 0.2 * table["well_predicted"].sum()


def test_no_more_genes_than_the_false_discovery_rate_allows_under_permuted_labels(bags) -> None:
    counts = []
    for seed in SEEDS:
        adata = bags.copy()
        adata.X = adata.X[np.random.default_rng(seed).permutation(adata.n_obs)]
        stp.tl.fit_folds(
            adata, "sequoia", N_FOLDS, hyperparameters=NETWORKS["sequoia"], training=TRAINING,
            baselines=("untrained", "permuted"), seed=seed,
        )  # fmt: skip
        table = stp.tl.well_predicted(adata, comparators=("untrained", "permuted"))
        counts.append(int(table["well_predicted"].sum()))
    # Without any signal every call is false: the chance of any at all is what the level of 0.2 bounds.
    assert sum(count > 0 for count in counts) <= 1
    assert max(counts) <= 0.05 * bags.n_vars
