"""Genes without biology at the real depths: what depth alone gives."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._depth import total_counts
from stpredict.tl.learn._null_genes import NULL, null_cohort
from stpredict.tl.learn.targets._base import Keys

OPTIONS: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False}


@pytest.fixture(scope="module")
def _dense() -> ad.AnnData:
    """Three patients with one section of 120 spots each: 30 genes, the depth follows a feature, and so does one gene."""
    rng = np.random.default_rng(0)
    n = 360
    features = rng.normal(size=(n, 3)).astype(np.float32)
    share = rng.dirichlet(np.ones(30))
    rates = np.tile(share, (n, 1))
    rates[:, 0] *= np.exp(features[:, 1])
    depth = rng.poisson(150 * np.exp(0.8 * features[:, 0])) + 1
    counts = np.stack([rng.multinomial(d, p / p.sum()) for d, p in zip(depth, rates, strict=True)]).astype(np.float32)
    sample = np.repeat(["s0", "s1", "s2"], 120)
    obs = pd.DataFrame({"sample": sample, "patient": sample}, index=[f"o{i}" for i in range(n)])
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(30)]))
    adata.obsm["X_toy"] = features
    adata.obsm["spatial"] = rng.random((n, 2)) * 1000
    adata.uns["stpredict"] = {"X_toy": {"encoder": "toy"}}
    return adata


@pytest.fixture
def dense(_dense: ad.AnnData) -> ad.AnnData:
    return _dense.copy()


def mean_r(scores: pd.DataFrame, label: str) -> float:
    return float(stp.tl.summarize(scores, n_boot=1).set_index("model").loc[label, "pearson"])


def test_depth_alone_scores_under_log1p_and_not_under_residuals(dense: ad.AnnData) -> None:
    stp.pp.normalize(dense, method="log1p")
    log1p = stp.tl.cross_validate(dense, ["ridge"], **OPTIONS)
    stp.pp.normalize(dense, method="pearson_residuals")
    residuals = stp.tl.cross_validate(dense, ["ridge"], **OPTIONS)
    assert mean_r(log1p, NULL) > 0.15
    assert abs(mean_r(residuals, NULL)) < 0.03
    one = residuals[(residuals["model"] == "ridge") & (residuals["gene"] == "G0")]["pearson"].mean()
    assert one > 0.3  # the gene that follows the picture keeps its score


def test_a_line_of_the_table_and_nothing_else(dense: ad.AnnData) -> None:
    stp.pp.normalize(dense, method="log1p")
    before = dense.X.copy(), dense.layers["counts"].copy()
    panel = {"panel": {"method": "mean", "n_genes": 12}}
    quick = {"mlp": {"model": "mlp", "training": {"max_epochs": 1}}}
    scores = stp.tl.cross_validate(dense, quick, target=panel, **OPTIONS)
    ridge, null = (scores[scores["model"] == name] for name in ("ridge", NULL))
    pd.testing.assert_frame_equal(
        *(part[["sample", "patient", "gene", "n_obs", "leaky"]].reset_index(drop=True) for part in (ridge, null))
    )
    assert NULL not in scores.attrs["keys"]
    assert not [name for name in (*dense.obsm, *dense.obs, *dense.uns["stpredict"]) if "null" in name]
    np.testing.assert_array_equal(dense.X, before[0])
    np.testing.assert_array_equal(dense.layers["counts"], before[1])
    assert NULL in set(stp.tl.summarize(scores)["model"])
    again = stp.tl.cross_validate(dense, ["mean"], target=panel, features="toy", baselines=[NULL], **OPTIONS)
    pd.testing.assert_series_equal(
        again.loc[again["model"] == NULL, "pearson"].reset_index(drop=True), null["pearson"].reset_index(drop=True)
    )


def test_left_out_without_counts_or_features(dense: ad.AnnData) -> None:
    dense.layers["mine"] = np.log1p(dense.X)
    target = stp.targets.Expression(layer="mine")
    assert NULL not in set(stp.tl.cross_validate(dense, ["ridge"], target=target, **OPTIONS)["model"])
    stp.pp.normalize(dense, method="log1p")
    del dense.obsm["X_toy"], dense.uns["stpredict"]["X_toy"]
    assert set(stp.tl.cross_validate(dense, ["mean"], **OPTIONS)["model"]) == {"mean"}


@pytest.mark.parametrize("sparse", [False, True])
def test_depth_of_genes_that_were_left_out_counts(dense: ad.AnnData, sparse: bool) -> None:
    from scipy.sparse import csr_matrix

    if sparse:
        dense.X = csr_matrix(dense.X)
    stp.pp.normalize(dense, method="log1p")
    depth = total_counts(dense.layers["counts"])
    few = dense[:, ["G3", "G0"]].copy()
    null = null_cohort(few, ["G0", "G3"], ["X_toy"], Keys(), 0)
    np.testing.assert_array_equal(total_counts(null.layers["counts"]), depth)
    np.testing.assert_allclose(total_counts(null.X.expm1()), 1e4, rtol=1e-3)
    for name in ("G0", "G3"):
        was, now = (float(a[:, name].layers["counts"].sum()) for a in (few, null))
        assert now == pytest.approx(was, rel=0.1)


def test_unmeasured_spots_stay_unmeasured(dense: ad.AnnData) -> None:
    dense.X[:7] = np.nan
    stp.pp.normalize(dense, method="log1p")
    null = null_cohort(dense, list(dense.var_names), ["X_toy"], Keys(), 0)
    assert null.obs["measured"].tolist() == [False] * 7 + [True] * 353
    scores = stp.tl.cross_validate(dense, ["ridge"], **OPTIONS)
    assert set(scores.loc[scores["model"] == NULL, "n_obs"]) == {113, 120}


def test_marks_are_those_of_the_folds(dense: ad.AnnData) -> None:
    dense.obs["patient"] = "p"
    stp.pp.normalize(dense, method="log1p")
    scores = stp.tl.cross_validate(dense, ["ridge"], "section", allow_leakage=True, **OPTIONS)
    assert set(scores.loc[scores["model"] == NULL, "leaky"]) == {True}
    dense.uns["spatial"] = {name: {"scalefactors": {"microns_per_pixel": 1.0}} for name in ("s0", "s1", "s2")}
    scores = stp.tl.cross_validate(dense, ["ridge"], stp.cohorts.spatial_blocks(dense, 2, 50), **OPTIONS)
    null = scores[scores["model"] == NULL]
    assert set(null["leaky"]) == {"within section"}
    assert null["block"].nunique() == 6
