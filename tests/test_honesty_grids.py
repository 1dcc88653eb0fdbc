"""What a network on grids has to show on sections whose truth is known, and what a mask can earn."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

# Smaller than published, for two cores and a dozen sections.
SMALL = {"width": 32, "levels": 2, "mixer_depth": 0}
TRAINING = {
    "max_epochs": 20, "patience": 0, "batch_size": 1, "weight_decay": 1e-2, "learning_rate": 3e-3, "schedule": "cosine",
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort() -> ad.AnnData:
    """Six patients with two sections each, whose spots express what surrounds them more than what they are."""
    adata = stp.datasets.synthetic_cohort(
        6, 2, 60, seed=1, n_spots=144, pitch_um=400, neighborhood=8.0, microns_per_pixel=4.0, counts_per_spot=6000,
        stain_shift=0.05, batch=0.05, dispersion=0.05,
    )  # fmt: skip
    stp.pp.image_features(adata, context=(1,))  # of the spot alone
    stp.pp.normalize(adata, method="log1p")
    stp.pp.grid(adata)
    return adata


@pytest.fixture(scope="module")
def scores(cohort: ad.AnnData) -> pd.DataFrame:
    """Correlations over the genes with signal, patients apart, by model."""
    hist = {"model": "hist", "hyperparameters": SMALL, "training": TRAINING}
    models = {
        "hist": hist,
        "U-Net": hist | {"hyperparameters": SMALL | {"gates": False}},
        "shuffled": hist | {"hyperparameters": SMALL | {"shuffle": True}},
        "mlp": "mlp",
    }
    metrics = ("pearson", "pearson_with_background")
    table = stp.tl.cross_validate(cohort, models, 2, metrics=metrics, ceiling=False, baselines=["mean", "ridge"])
    assert not table["leaky"].any()
    return table[table["gene"].map(cohort.var["signal"]).to_numpy(dtype=bool)]


def test_a_network_that_sees_the_neighborhood_beats_those_that_do_not(scores) -> None:
    r = scores.groupby("model")["pearson"].mean()
    for network in ("hist", "U-Net"):
        assert r[network] > max(r["ridge"], r["mlp"]) + 0.05
    # Without its neighbors it has nothing that the others lack.
    assert r["shuffled"] < max(r["ridge"], r["mlp"]) + 0.02


def test_a_mask_earns_nothing_on_tissue_and_much_with_the_background(cohort, scores) -> None:
    mean = scores[scores["model"] == "mean"]
    assert mean["pearson"].isna().all()
    for sample, table in mean.groupby("sample"):
        section = cohort[cohort.obs["sample"] == sample]
        padded = -(-np.asarray(cohort.uns["stpredict"]["grid"]["shape"][sample]) // 16) * 16
        share = section.n_obs / padded.prod()
        truth = np.asarray(section[:, table["gene"]].to_df(), dtype=np.float64)
        m, s = truth.mean(axis=0), truth.std(axis=0)
        # All that it knows is where the tissue is: the more even a gene, the better it scores.
        with np.errstate(invalid="ignore"):  # genes without counts
            expected = np.sqrt((1 - share) * m**2 / ((1 - share) * m**2 + s**2))
        np.testing.assert_allclose(table["pearson_with_background"], expected, rtol=1e-4)
        assert (expected[m > 2 * s] > 0.8).all()
        assert (m > 2 * s).any()
