"""Scores that depth has no part in."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

FREE = ["pearson", "pearson_residual", "deviance_explained"]
TARGETS = {
    "log1p": ({"method": "log1p"}, None),
    "median": ({"method": "log1p", "target_sum": "median"}, None),
    "residuals": ({"method": "pearson_residuals"}, None),
    "counts": ({}, stp.targets.Counts()),
}


def cohort(counts_per_spot: float, seed: int, null: bool = False):
    """Three patients with two sections of 120 spots; the first feature shows the depth, all of them the rates."""
    rng = np.random.default_rng(seed)
    n, n_genes = 720, 40
    section = np.arange(n) // 120
    features = rng.normal(size=(n, 6)).astype(np.float32)
    log_rate = features @ rng.normal(0, 0.35, (6, n_genes)) * (np.arange(n_genes) < 30) * (not null)
    share = rng.dirichlet(np.full(n_genes, 2.0)) * np.exp(log_rate)
    depth = counts_per_spot * np.exp(0.5 * features[:, 0] + rng.normal(0, 0.2, n))
    counts = rng.poisson(depth[:, None] * share / share.sum(axis=1, keepdims=True)).astype(np.float32)
    obs = pd.DataFrame({"sample": [f"s{i}" for i in section], "patient": [f"p{i // 2}" for i in section]})
    obs.index = [f"o{i}" for i in range(n)]
    adata = ad.AnnData(counts, obs=obs)
    adata.var_names = [f"G{i:02d}" for i in range(n_genes)]
    adata.layers["counts"] = counts.copy()
    adata.obsm["X_toy"] = features
    adata.obsm["spatial"] = rng.uniform(0, 5000, (n, 2))
    adata.uns["stpredict"] = {"X_toy": {"encoder": "toy", "tile_um": 100.0}}
    return adata


def mean_scores(adata, target: str, models=("ridge",)) -> pd.DataFrame:
    how, asked = TARGETS[target]
    stp.pp.normalize(adata, layer="counts", **how)
    scores = stp.tl.cross_validate(adata, models, target=asked, metrics=FREE, ceiling=False, baselines=False)
    return scores.groupby("model")[FREE].mean()


@pytest.mark.parametrize("target", TARGETS)
def test_genes_without_biology_score_nothing(target: str) -> None:
    """Where the picture shows the depth, log1p values of such genes are predicted all the same."""
    found = mean_scores(cohort(300, 0, null=True), target, ["ridge", "mlp"])
    assert (found["pearson_residual"].abs() < 0.02).all()
    if target == "log1p":
        assert (found["pearson"] > 0.1).all()
        assert (found["deviance_explained"] < -0.02).all()
    else:
        assert (found["deviance_explained"].abs() < 0.02).all()


def test_counts_beat_log1p_where_counts_are_few() -> None:
    for seed in range(3):
        few = {target: mean_scores(cohort(150, seed), target) for target in ("log1p", "counts", "residuals")}
        explained = {target: float(table["deviance_explained"].iloc[0]) for target, table in few.items()}
        assert explained["counts"] > explained["log1p"]
        many = {target: mean_scores(cohort(10_000, seed), target) for target in ("log1p", "counts")}
        log1p, counts = (float(many[target]["deviance_explained"].iloc[0]) for target in ("log1p", "counts"))
        assert abs(counts - log1p) < 0.02


@pytest.fixture
def predicted(toy):
    stp.pp.normalize(toy, method="pearson_residuals")
    stp.tl.predict(toy, stp.tl.fit(toy, "ridge", (toy.obs["patient"] != "p2").to_numpy()))
    return toy


def test_values_are_those_of_the_metrics(predicted) -> None:
    table = stp.tl.evaluate(predicted, baselines=False)
    part = table[table["sample"] == "s4"].set_index("gene")
    rows = (predicted.obs["sample"] == "s4").to_numpy()
    counts = predicted.layers["counts"][rows]
    depth = counts.sum(axis=1)
    # Residuals and rates are in proportion.
    np.testing.assert_allclose(part["pearson_residual"], part["pearson"], atol=1e-3)
    np.testing.assert_allclose(part["residual_ceiling"], stp.metrics.residual_ceiling(counts, depth), rtol=1e-6)
    np.testing.assert_allclose(part["ceiling"], part["residual_ceiling"], rtol=1e-6)
    np.testing.assert_allclose(part["deviance_ceiling"], stp.metrics.deviance_ceiling(counts, depth), rtol=1e-6)
    rates = stp.get.predicted(predicted, scale="rate").X[rows]
    np.testing.assert_allclose(
        part["deviance_explained"], stp.metrics.deviance_explained(counts, rates, depth), rtol=1e-3, atol=1e-3
    )


def test_a_constant_explains_nothing_and_has_no_correlation(predicted) -> None:
    table = stp.tl.evaluate(predicted)
    constant = table[table["model"] == "mean"]
    np.testing.assert_allclose(constant["deviance_explained"], 0, atol=1e-9)
    assert constant["pearson_residual"].isna().all()


def test_undefined_scores_are_counted(predicted) -> None:
    predicted.layers["counts"][(predicted.obs["sample"] == "s4").to_numpy(), 1] = 0
    stp.pp.normalize(predicted, method="pearson_residuals")
    table = stp.tl.evaluate(predicted, baselines=False)
    gone = (table["sample"] == "s4") & (table["gene"] == "G1")
    np.testing.assert_array_equal(table["deviance_explained"].isna(), gone)
    assert stp.tl.summarize(table)["n_undefined_deviance"].tolist() == [1]
    # A prediction of a unit of one's own is worth nothing in counts, and that is said of every score.
    predicted.layers["mine"] = predicted.X
    other = stp.tl.evaluate(predicted, layer="mine", baselines=False)
    assert "ceiling" not in other
    model = stp.tl.fit(predicted, "ridge", target=stp.targets.Expression(layer="mine"), baselines=False)
    stp.tl.predict(predicted, model)
    other = stp.tl.evaluate(predicted, layer="mine", baselines=False)
    assert other[FREE[1:]].isna().all(axis=None)
    assert stp.tl.summarize(other)["n_undefined_deviance"].item() == len(other)


def test_strata_of_the_ceiling() -> None:
    ceilings = {
        "high": [0.9, 0.85],
        "good": [0.9, 0.5],
        "fair": [0.5, 0.5],
        "none": [-0.3, 0.1],
        "unseen": [np.nan] * 2,
    }
    scores = pd.DataFrame(
        [
            {
                "model": model,
                "sample": f"s{i}",
                "patient": "p",
                "gene": gene,
                "pearson": 0.1 * i,
                "ceiling": value,
                "n_obs": 9,
            }
            for model in ("a", "b")
            for gene, values in ceilings.items()
            for i, value in enumerate(values)
        ]
    )
    table = stp.tl.summarize(scores, by=["model", "stratum"], n_boot=2)
    found = table[table["model"] == "a"].set_index("stratum")
    assert found["n_genes"].to_dict() == {"above .8": 1, ".6 to .8": 1, ".4 to .6": 1, "below .4": 1, "unknown": 1}
    assert found.loc[".6 to .8", "ceiling"] == pytest.approx(np.sqrt((0.9**2 + 0.5**2) / 2))
    assert len(table) == 10


def test_residuals_are_computed_once_for_all_predictions() -> None:
    from stpredict.tl.judge._depth_free import Counted

    adata = cohort(300, 0)
    stp.pp.normalize(adata, layer="counts")
    counted = Counted(adata, np.arange(120), list(adata.var_names), "s0")
    first = counted.residuals(100.0)
    assert counted.residuals(100.0) is first
    other = counted.residuals(1.0)
    assert not np.allclose(other, first)
    np.testing.assert_array_equal(counted.residuals(100.0), first)
