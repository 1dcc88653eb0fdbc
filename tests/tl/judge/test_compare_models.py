from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pingouin import multicomp
from scipy.stats import ttest_rel, wilcoxon

import stpredict as stp
from stpredict.tl.judge._compare_models import _effect_interval


def scored(n_patients: int = 8, n_genes: int = 30, gains: dict | None = None, noise: float = 0.05, seed: int = 0):
    """Scores of models whose mean over genes is above that of `base` by a gain, patients differing by much more."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0.3, 0.2, n_patients)
    rows = [
        {"model": model, "patient": f"P{p}", "sample": f"P{p}s{s}", "gene": f"G{g}", "leaky": False,
         "pearson": level[p] + gain + rng.normal(0, noise)}
        for model, gain in (gains or {"base": 0.0, "same": 0.0, "net": 0.05}).items()
        for p in range(n_patients) for s in range(2) for g in range(n_genes)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def per_patient(scores: pd.DataFrame, model: str) -> np.ndarray:
    part = scores[scores["model"] == model]
    return part.groupby(["patient", "sample"])["pearson"].mean().groupby("patient").mean().to_numpy()


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_differences_are_paired_over_patients_and_adjusted(test):
    scores = scored()
    table = stp.tl.compare_models(scores, test=test).set_index(["model", "reference"])
    assert len(table) == 3
    reference = {"t": ttest_rel, "wilcoxon": wilcoxon}[test]
    for (one, other), row in table.iterrows():
        a, b = per_patient(scores, one), per_patient(scores, other)
        assert row["difference"] == pytest.approx((a - b).mean())
        assert row["difference"] >= 0
        assert row["p"] == pytest.approx(reference(a, b).pvalue)
        assert row["effect"] == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
        assert row["low"] < row["difference"] < row["high"]
        assert (row["n_units"], row["over"], row["n_genes"]) == (8, "patients", 30)
    np.testing.assert_allclose(table["p_adjusted"], multicomp(table["p"].to_numpy(), method="holm")[1])
    # Patients differ by .2 and the models by .05: only pairs show it.
    assert set(table.loc[[("net", "base"), ("net", "same")], "better"]) == {"net"}
    assert table["better"].drop([("net", "base"), ("net", "same")]).tolist() == [""]


def test_genes_and_spots_do_not_make_up_for_patients():
    scores = scored(n_patients=2, n_genes=500)
    table = stp.tl.compare_models(scores)
    assert table["p"].isna().all()
    assert (table["better"] == "").all()
    one = stp.tl.compare_models(scored(n_patients=1))
    assert set(one["over"]) == {"sections"}
    blocks = scored(n_patients=1).assign(block=lambda t: t["sample"], sample="s")
    assert set(stp.tl.compare_models(blocks)["over"]) == {"blocks"}


def test_no_difference_is_found_where_there_is_none():
    found = [
        stp.tl.compare_models(scored(6, 10, {"a": 0.0, "b": 0.0}, seed=seed), n_boot=1)["p"].iloc[0]
        for seed in range(200)
    ]
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.1
    assert 0.4 <= np.mean(np.array(found) < 0.5) <= 0.6


def test_genes_that_one_model_has_no_score_for_are_left_out_of_both():
    scores = scored(4, 3, {"a": 0.0, "b": 0.0}, noise=0)
    scores.loc[(scores["model"] == "a") & (scores["gene"] == "G0"), "pearson"] = np.nan
    scores.loc[(scores["model"] == "b") & (scores["gene"] == "G0"), "pearson"] = 1.0
    row = stp.tl.compare_models(scores).iloc[0]
    assert row["difference"] == pytest.approx(0)
    assert (row["n_scores"], row["n_undefined"], row["n_genes"]) == (16, 8, 2)
    assert np.isnan(row["p"])  # equal in every patient: no spread to test against


def test_lower_errors_are_better_and_the_reference_stays_second():
    scores = scored().rename(columns={"pearson": "rmse"})
    table = stp.tl.compare_models(scores, metric="rmse", reference="base").set_index("model")
    assert set(table["reference"]) == {"base"}
    assert table.loc["net", "difference"] == pytest.approx(0.05, abs=0.02)
    assert table.loc["net", "better"] == "base"
    assert table.loc["net", "genes_better"] < 0.1


def test_effects_have_intervals_of_the_noncentral_t():
    low, high = _effect_interval(0.5, 50, 0.95)
    assert (low, high) == (pytest.approx(0.2034, abs=1e-3), pytest.approx(0.7922, abs=1e-3))
    for effect in (0.0, -0.4, 30.0):
        low, high = _effect_interval(effect, 4, 0.95)
        assert low < effect < high


def test_a_leaky_model_marks_its_comparisons():
    scores = scored(4)
    scores.loc[scores["model"] == "net", "leaky"] = True
    table = stp.tl.compare_models(scores).set_index(["model", "reference"])["leaky"]
    assert [bool(table[pair]) for pair in table.index] == ["net" in pair for pair in table.index]


def test_what_cannot_be_compared_is_refused():
    scores = scored(4)
    with pytest.raises(KeyError, match="reference"):
        stp.tl.compare_models(scores, reference="ridge")
    with pytest.raises(ValueError, match="at least two"):
        stp.tl.compare_models(scores[scores["model"] == "net"])
    with pytest.raises(ValueError, match="found several"):
        stp.tl.compare_models(pd.concat([scores, scores]))
    with pytest.raises(ValueError, match="across patients"):
        stp.tl.compare_models(scores.assign(patient="all"))
    with pytest.raises(KeyError, match="rmse"):
        stp.tl.compare_models(scores, metric="rmse")
