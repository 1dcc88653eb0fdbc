from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as stp


def table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["model", "patient", "sample", "gene", "pearson", "ceiling", "leaky"])


@pytest.fixture
def scores() -> pd.DataFrame:
    """Patient A has two sections, B has one with a single defined gene."""
    return table(
        [
            ("m", "A", "a1", "g", 0.2, 0.8, False),
            ("m", "A", "a1", "h", 0.4, 0.6, False),
            ("m", "A", "a2", "g", 0.6, 0.8, False),
            ("m", "A", "a2", "h", 0.8, 0.6, False),
            ("m", "B", "b1", "g", 0.1, 0.5, True),
            ("m", "B", "b1", "h", np.nan, np.nan, True),
        ]
    )


def test_genes_then_sections_then_patients(scores) -> None:
    row = stp.tl.summarize(scores).iloc[0]
    assert row["pearson"] == pytest.approx(((0.3 + 0.7) / 2 + 0.1) / 2)
    assert row["low"] == pytest.approx(0.1)
    assert row["high"] == pytest.approx(0.5)
    assert (row["n_undefined"], row["n_scores"]) == (1, 6)
    assert (row["n_genes"], row["n_sections"], row["n_patients"]) == (2, 3, 2)
    assert row["interval_over"] == "patients"
    assert row["leaky"]
    reliability_g = (0.64 + 0.25) / 2
    assert row["ceiling"] == pytest.approx((np.sqrt(reliability_g) + 0.6) / 2)
    assert row["r_over_ceiling"] == pytest.approx(0.3 / row["ceiling"])


def test_one_patient_bootstraps_sections_and_says_so(scores) -> None:
    row = stp.tl.summarize(scores[scores["patient"] == "A"]).iloc[0]
    assert row["interval_over"] == "sections"
    assert row["low"] == pytest.approx(0.3)
    assert row["high"] == pytest.approx(0.7)
    assert not row["leaky"]


@pytest.mark.parametrize(("marks", "whole"), [([False, "unknown"], "unknown"), ([True, "unknown"], True)])
def test_an_unknown_leak_stays_unknown(scores, marks, whole) -> None:
    scores["leaky"] = pd.Series(marks * 3, dtype=object)
    assert stp.tl.summarize(scores)["leaky"].tolist() == [whole]


def test_order_groups_and_undefined(scores) -> None:
    worse = scores.assign(model="worse", pearson=scores["pearson"] - 0.5)
    nothing = scores.assign(model="mean", pearson=np.nan)
    summary = stp.tl.summarize(pd.concat([nothing, worse, scores]))
    assert summary["model"].tolist() == ["m", "worse", "mean"]
    assert summary["n_undefined"].tolist() == [1, 1, 6]
    assert np.isnan(summary["pearson"].iloc[2])
    by_gene = stp.tl.summarize(scores, by=("model", "gene"))
    assert by_gene.set_index("gene").loc["h", "pearson"] == pytest.approx(0.6)
    pd.testing.assert_frame_equal(stp.tl.summarize(scores, by="gene"), stp.tl.summarize(scores, by=["gene"]))


def test_same_seed_same_interval(scores) -> None:
    pd.testing.assert_frame_equal(stp.tl.summarize(scores, seed=4), stp.tl.summarize(scores, seed=4))


def test_other_tables_are_refused(scores) -> None:
    with pytest.raises(KeyError, match="stp.tl.evaluate"):
        stp.tl.summarize(scores.drop(columns="pearson"))
    with pytest.raises(KeyError, match="method"):
        stp.tl.summarize(scores, by=["method"])


def test_ceilings_below_zero_are_kept_and_weigh_against_those_above() -> None:
    rows = [("m", "A", f"a{i}", gene, 0.1, c, False) for gene, cs in (("g", (0.5, -0.3)), ("h", (-0.4, -0.2)))
            for i, c in enumerate(cs)]  # fmt: skip
    expected = (np.sqrt((0.25 - 0.09) / 2) - np.sqrt((0.16 + 0.04) / 2)) / 2
    assert stp.tl.summarize(table(rows))["ceiling"].iloc[0] == pytest.approx(expected)


def test_every_metric_weighs_patients_equally(scores) -> None:
    scores["spearman"] = [0.1, 0.3, 0.5, 0.7, -0.2, np.nan]
    scores["pearson_given_depth"] = scores["spearman"] / 2
    row = stp.tl.summarize(scores).iloc[0]
    assert row["spearman"] == pytest.approx((0.4 - 0.2) / 2)
    assert row["pearson_given_depth"] == pytest.approx((0.4 - 0.2) / 4)
