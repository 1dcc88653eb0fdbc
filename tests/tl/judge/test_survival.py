from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

pytest.importorskip("lifelines")


def make(seed=0, n=120, slope=1.0) -> ad.AnnData:
    """One slide per patient; the hazard grows with the risk, a third is censored, follow-ups are whole months."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    until, censored = rng.exponential(20 * np.exp(-slope * risk)), rng.exponential(40, n)
    obs = pd.DataFrame(
        {
            "patient": [f"p{i}" for i in range(n)],
            "risk": risk.astype(np.float32),
            "risk_group": pd.Categorical(np.where(risk > 0.1, "high", "low")),
            "risk_fold": np.arange(n) % 4,
            "time": np.ceil(np.minimum(until, censored)),
            "event": until <= censored,
            "cohort": np.where(np.arange(n) < n // 2, "A", "B"),
        },
        index=[f"s{i}" for i in range(n)],
    )
    return ad.AnnData(np.zeros((n, 1), np.float32), obs=obs)


@pytest.fixture
def slides() -> ad.AnnData:
    return make()


def one(*args, **kwargs) -> pd.Series:
    table = stp.tl.survival(*args, **kwargs)
    assert len(table) == 1
    return table.iloc[0]


def test_matches_lifelines(slides):
    from lifelines import CoxPHFitter
    from lifelines.statistics import logrank_test
    from lifelines.utils import concordance_index

    obs, row = slides.obs, one(slides)
    assert row["c_index"] == pytest.approx(concordance_index(obs["time"], -obs["risk"], obs["event"]))
    frame = obs[["time", "event"]].assign(risk=(obs["risk"] / obs["risk"].std()).astype(float))
    model = CoxPHFitter(alpha=0.05).fit(frame, "time", "event")
    assert row["hazard_ratio"] == pytest.approx(model.hazard_ratios_["risk"], rel=1e-4)
    low, high = np.exp(model.confidence_intervals_.loc["risk"])
    assert (row["hr_low"], row["hr_high"]) == pytest.approx((low, high), rel=1e-4)
    assert row["cox_p"] == pytest.approx(model.summary.loc["risk", "p"], rel=1e-3)
    high = obs["risk_group"] == "high"
    test = logrank_test(obs["time"][high], obs["time"][~high], obs["event"][high], obs["event"][~high])
    assert row["logrank_p"] == pytest.approx(test.p_value)
    assert row["n_high"] == high.sum()
    assert (row["n_patients"], row["n_slides"], row["n_events"]) == (120, 120, obs["event"].sum())
    assert row["leaky"] == "unknown"  # a risk that no model of this package predicted


def test_hazard_ratio_against_scikit_survival(slides):
    linear, util = pytest.importorskip("sksurv.linear_model"), pytest.importorskip("sksurv.util")
    obs = slides.obs
    outcome = util.Surv.from_arrays(obs["event"].to_numpy(), obs["time"].to_numpy())
    scaled = (obs["risk"] / obs["risk"].std()).to_numpy()[:, None]
    slope = linear.CoxPHSurvivalAnalysis(ties="efron").fit(scaled, outcome).coef_[0]
    assert one(slides)["hazard_ratio"] == pytest.approx(np.exp(slope), rel=1e-3)


def test_interval_covers_and_is_seeded(slides):
    row = one(slides)
    assert row["c_low"] < row["c_index"] < row["c_high"]
    assert row["c_low"] > 0.6
    assert one(slides, seed=1)["c_low"] != row["c_low"]
    pd.testing.assert_series_equal(one(slides), row)
    wide = one(slides, level=0.99)
    assert wide["c_low"] < row["c_low"]
    assert wide["hr_low"] < row["hr_low"]
    # The spread of the bootstrap is that of the C-index over cohorts drawn anew.
    anew = [one(make(seed), n_boot=1)["c_index"] for seed in range(1, 41)]
    assert (row["c_high"] - row["c_low"]) / 3.92 == pytest.approx(np.std(anew), rel=0.4)


def test_slides_of_a_patient_are_averaged(slides):
    expected = one(slides)
    twice = ad.concat([slides, slides], index_unique="-")
    shift = np.repeat([0.25, -0.25], 120).astype(np.float32)
    twice.obs["risk"] += shift
    found = one(twice)
    assert found["n_slides"] == 240
    columns = [c for c in expected.index if c != "n_slides"]
    pd.testing.assert_series_equal(found[columns], expected[columns], rtol=1e-4, check_names=False)


def test_concordance_within_folds(slides):
    row = one(slides)
    slides.obs["risk"] += 10 * slides.obs["risk_fold"]
    moved = one(slides)
    assert moved["c_index_folds"] == pytest.approx(row["c_index_folds"])
    assert moved["c_index"] < row["c_index"] - 0.1
    slides.obs["risk_fold"] = -1
    assert np.isnan(one(slides)["c_index_folds"])
    del slides.obs["risk_fold"]
    assert np.isnan(one(slides)["c_index_folds"])


def test_by_cohort(slides):
    slides.obs["risk_leaky"] = slides.obs["cohort"] == "B"
    table = stp.tl.survival(slides, by="cohort").set_index("cohort")
    assert table.index.tolist() == ["A", "B"]
    assert table["leaky"].tolist() == [False, True]
    for name, row in table.iterrows():
        alone = one(slides[slides.obs["cohort"] == name].copy())
        pd.testing.assert_series_equal(row, alone, check_names=False)


def test_series_of_risks(slides):
    columns = ["c_index", "hazard_ratio", "logrank_p"]
    series = slides.obs["risk"].sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(one(slides, series)[columns], one(slides)[columns])
    part = one(slides, series.drop("s5"))
    assert part["n_patients"] == 119


def test_slides_without_a_risk_are_left_out(slides):
    expected = one(slides[10:].copy())
    slides.obs.loc[slides.obs_names[:10], "risk"] = np.nan
    slides.obs.loc[slides.obs_names[:10], "time"] = -1
    slides.obs["risk_group"] = slides.obs["risk_group"].where(slides.obs["risk"].notna())
    pd.testing.assert_series_equal(one(slides), expected)


def test_a_risk_that_tells_nothing():
    covered = [
        (row["c_low"] <= 0.5 <= row["c_high"], row["cox_p"] < 0.05, row["logrank_p"] < 0.05)
        for row in (one(make(seed, slope=0.0), n_boot=200) for seed in range(20))
    ]
    assert np.mean(covered, axis=0)[0] >= 0.8
    assert (np.sum(covered, axis=0)[1:] <= 4).all()


def test_undefined_is_nan(slides):
    slides.obs["risk"] = np.float32(0.3)
    row = one(slides)
    assert row["c_index"] == 0.5
    assert row[["hazard_ratio", "hr_low", "hr_high", "cox_p"]].isna().all()
    slides.obs["risk_group"] = "low"
    assert np.isnan(one(slides)["logrank_p"])


def test_a_risk_that_orders_all_has_no_hazard_ratio(slides):
    slides.obs["event"], slides.obs["time"] = True, np.arange(1.0, 121)
    slides.obs["risk"] = -slides.obs["time"]
    row = one(slides)
    assert row["c_index"] == 1
    assert np.isnan(row["hazard_ratio"])


def test_without_groups(slides):
    del slides.obs["risk_group"]
    with pytest.raises(KeyError, match=r"'risk_group'.*training patients.*group=None"):
        stp.tl.survival(slides)
    assert "logrank_p" not in stp.tl.survival(slides, group=None)


def test_errors(slides, frozen):
    before = frozen(slides)
    with pytest.raises(KeyError, match="'score'.*stp.tl.predict"):
        stp.tl.survival(slides, "score")
    with pytest.raises(KeyError, match="'days'"):
        stp.tl.survival(slides, time="days")
    with pytest.raises(ValueError, match="two groups.*found 4"):
        stp.tl.survival(slides, group="risk_fold")
    with pytest.raises(TypeError, match="numbers in obs\\['cohort'\\]"):
        stp.tl.survival(slides, "cohort")
    with pytest.raises(TypeError, match="column of obs or a series"):
        stp.tl.survival(slides, slides.obs["risk"].to_numpy())
    with pytest.raises(ValueError, match="level between"):
        stp.tl.survival(slides, level=95)
    with pytest.raises(ValueError, match="at least one slide"):
        stp.tl.survival(slides, slides.obs["risk"] * np.nan)
    assert frozen(slides) == before
    slides.obs["event"] = 0
    with pytest.raises(ValueError, match="at least one event"):
        stp.tl.survival(slides)
    slides.obs["event"], slides.obs["patient"] = 1, "p0"
    with pytest.raises(ValueError, match="disagree in p0"):
        stp.tl.survival(slides)


def test_names_the_extra(slides, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lifelines", None)
    with pytest.raises(ImportError, match="survival"):
        stp.tl.survival(slides)


def test_rounding_is_no_spread(slides) -> None:
    """A constant risk, apart from the last bits, has no standard deviation to take a hazard ratio of."""
    noise = slides.obs["risk"].to_numpy(dtype=np.float64)
    slides.obs["risk"] = 100 + 1e-9 * noise
    assert np.isnan(one(slides)[["hazard_ratio", "hr_low", "hr_high", "cox_p"]].astype(float)).all()
    slides.obs["risk"] = 100 + 0.01 * noise
    assert one(slides)["hazard_ratio"] > 1


def test_a_cohort_without_events_has_a_row_and_no_numbers(slides) -> None:
    slides.obs.loc[slides.obs["cohort"] == "A", "event"] = False
    with pytest.warns(UserWarning, match=r"all 60 patients with obs\['cohort'\] = A are censored"):
        table = stp.tl.survival(slides, by="cohort").set_index("cohort")
    assert table.loc["A", ["n_patients", "n_events"]].tolist() == [60, 0]
    assert table.loc["A", ["c_index", "hazard_ratio", "logrank_p"]].isna().all()
    alone = one(slides[slides.obs["cohort"] == "B"].copy())
    assert table.loc["B", "c_index"] == alone["c_index"]
    assert list(table.columns) == list(alone.index)
    slides.obs["event"] = False
    with pytest.raises(ValueError, match="at least one event"):
        stp.tl.survival(slides, by="cohort")


def test_an_empty_group_is_told(slides) -> None:
    slides.obs["risk_group"] = pd.Categorical(["high"] * 120, categories=["high", "low"])
    with pytest.warns(UserWarning, match="all 120 patients in 'high': the other one is empty"):
        row = one(slides)
    assert np.isnan(row["logrank_p"])
    assert row["c_index"] > 0.5
    with pytest.warns(UserWarning, match=r"all 60 patients with obs\['cohort'\] = B"):
        stp.tl.survival(slides, by="cohort")


def test_nothing_is_adjusted_for_a_covariate_without_two_values(slides) -> None:
    slides.obs["er"], slides.obs["age"] = "positive", np.arange(120.0)
    with pytest.warns(UserWarning, match="one value in all 120 for er: nothing is adjusted"):
        row = one(slides, covariates=["er", "age"])
    assert np.isnan(row["hr_adjusted"])
    with pytest.raises(ValueError, match="one value in all 120 for er; leave it out"):
        stp.tl.hazard_ratios(slides, ["er", "age"])
