"""Published habits beside a score, never instead of it."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

QUICK: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False, "baselines": False}
AS = "pearson_as_published"


@pytest.fixture
def predicted(toy: ad.AnnData) -> ad.AnnData:
    stp.tl.cross_validate(toy, ["ridge"], **QUICK)
    return toy


def by_hand(adata: ad.AnnData, name: str, smoothed: bool, panel: bool) -> pd.Series:
    """Correlation of each gene in one section, spot by spot."""
    part = adata[adata.obs["sample"] == name]
    counts = np.asarray(part.layers["counts"], dtype=float)
    truth = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4) if panel else np.asarray(part.X)
    if smoothed:
        at = part.obs[["array_row", "array_col"]].to_numpy()
        near = (np.abs(at[:, None] - at[None]) <= 1).all(axis=2)
        truth = np.stack([truth[row].mean(axis=0) for row in near])
    shown = stp.get.predicted(part, "predicted_ridge").X
    return pd.Series([np.corrcoef(a, b)[0, 1] for a, b in zip(truth.T, shown.T, strict=True)], part.var_names)


@pytest.mark.parametrize(
    ("habits", "words"),
    [
        (["smoothed"], "smoothed target: for comparison only"),
        (["panel"], "panel-normalized target: for comparison only"),
        (["panel", "smoothed"], "smoothed, panel-normalized target: for comparison only"),
    ],
)
def test_targets_by_hand(predicted: ad.AnnData, habits: list[str], words: str) -> None:
    plain = stp.tl.evaluate(predicted, "predicted_ridge", **QUICK)
    table = stp.tl.evaluate(predicted, "predicted_ridge", habits=habits, **QUICK)
    pd.testing.assert_frame_equal(table.drop(columns=[AS, "habits"]), plain)  # the headline stays what it is
    assert set(table["habits"]) == {words}
    for name in ("s0", "s3"):
        found = table[table["sample"] == name].set_index("gene")[AS]
        wanted = by_hand(predicted, name, "smoothed" in habits, "panel" in habits)
        np.testing.assert_allclose(found.loc[wanted.index], wanted, rtol=1e-4)
    summary = stp.tl.summarize(table)
    assert summary["habits"].iloc[0] == words
    assert summary["pearson"].iloc[0] == pytest.approx(stp.tl.summarize(plain)["pearson"].iloc[0])
    assert AS not in summary.shown
    assert summary[AS].notna().all()


def test_ranked_keeps_the_best_of_each_section(cohort: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpredict.tl.judge._habits._N_RANKED", 5)
    table = stp.tl.cross_validate(cohort, ["ridge"], habits=["ranked"], **QUICK)
    for _, part in table.groupby("sample"):
        assert part[AS].notna().sum() == 5
        assert part[AS].min() == pytest.approx(part["pearson"].nlargest(5).min())


def test_background_is_that_of_the_grid(cohort: ad.AnnData) -> None:
    stp.pp.grid(cohort)
    metrics = ["pearson", "pearson_with_background"]
    table = stp.tl.cross_validate(cohort, ["ridge"], habits=["background"], **(QUICK | {"metrics": metrics}))
    np.testing.assert_allclose(table[AS], table["pearson_with_background"], rtol=1e-5)
    assert set(table["habits"]) == {"background counted: for comparison only"}


def test_null_genes_and_blocks_have_them_too(toy: ad.AnnData) -> None:
    one = toy[toy.obs["sample"] == "s0"].copy()
    folds = stp.cohorts.spatial_blocks(one, 2, 100)
    table = stp.tl.cross_validate(one, ["ridge"], folds, habits=["smoothed"], metrics=["pearson"], ceiling=False)
    assert "ridge (null genes)" in set(table["model"])
    assert "habits" in table
    assert set(table["leaky"]) == {"within section"}


def test_refusals(predicted: ad.AnnData) -> None:
    with pytest.raises(
        ValueError, match="habits to be one of 'panel', 'smoothed', 'ranked', 'background'; found 'best'"
    ):
        stp.tl.evaluate(predicted, "predicted_ridge", habits=["best"])
    with pytest.raises(ValueError, match="habits to be one of"):
        stp.tl.cross_validate(predicted, ["ridge"], habits=["best"])
    del predicted.obs["array_row"]
    with pytest.raises(KeyError, match="array_row.*3 × 3"):
        stp.tl.evaluate(predicted, "predicted_ridge", habits=["smoothed"], **QUICK)
