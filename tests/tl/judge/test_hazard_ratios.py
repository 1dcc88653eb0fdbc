from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

pytest.importorskip("lifelines")


@pytest.fixture
def slides() -> ad.AnnData:
    """The hazard grows with the risk and with grade; age and receptor do nothing."""
    rng = np.random.default_rng(0)
    n = 200
    risk, grade = rng.normal(size=n), rng.integers(1, 4, n)
    until, censored = rng.exponential(20 * np.exp(-risk - 0.7 * grade)), rng.exponential(10, n)
    obs = pd.DataFrame(
        {
            "patient": [f"p{i}" for i in range(n)],
            "risk": risk,
            "risk_group": np.where(risk > 0, "high", "low"),
            "grade": pd.Categorical.from_codes(grade - 1, ["low", "middle", "high"]),
            "age": rng.normal(50, 10, n),
            "er": rng.choice(["neg", "pos"], n),
            "time": np.minimum(until, censored),
            "event": until <= censored,
        },
        index=[f"s{i}" for i in range(n)],
    )
    return ad.AnnData(np.zeros((n, 1), np.float32), obs=obs)


def test_matches_lifelines(slides) -> None:
    from lifelines import CoxPHFitter

    obs = slides.obs
    frame = pd.DataFrame({"time": obs["time"], "event": obs["event"].astype(float)})
    frame["risk"] = obs["risk"] / obs["risk"].std()
    frame["middle"], frame["high"] = (obs["grade"] == "middle").astype(float), (obs["grade"] == "high").astype(float)
    frame["age"] = obs["age"] / obs["age"].std()
    expected = CoxPHFitter().fit(frame, "time", "event").summary
    table = stp.tl.hazard_ratios(slides, ["grade", "age"])
    assert table["term"].tolist() == ["risk", "grade", "grade", "age"]
    assert table["level"].tolist() == ["per SD", "middle vs low", "high vs low", "per SD"]
    np.testing.assert_allclose(table["hazard_ratio"], expected["exp(coef)"], rtol=1e-4)
    np.testing.assert_allclose(table["low"], expected["exp(coef) lower 95%"], rtol=1e-4)
    np.testing.assert_allclose(table["p"], expected["p"], rtol=1e-2)
    alone = CoxPHFitter().fit(frame[["time", "event", "middle", "high"]], "time", "event").summary
    np.testing.assert_allclose(table["hazard_ratio_alone"][1:3], alone["exp(coef)"], rtol=1e-4)
    assert table.attrs["n_events"] == obs["event"].sum()
    per_unit = stp.tl.hazard_ratios(slides, "age", standardize=False)
    alone = CoxPHFitter().fit(obs[["time", "event", "age"]].astype(float), "time", "event").hazard_ratios_["age"]
    assert per_unit.loc[1, "hazard_ratio_alone"] == pytest.approx(alone, rel=1e-4)
    assert stp.tl.hazard_ratios(slides, "age", None)["term"].tolist() == ["age"]


def test_survival_adjusts(slides) -> None:
    plain = stp.tl.survival(slides)
    found = stp.tl.survival(slides, covariates=["grade", "age"])
    pd.testing.assert_frame_equal(found[plain.columns], plain)
    table = stp.tl.hazard_ratios(slides, ["grade", "age"])
    row = found.iloc[0]
    for name, column in (("hr_adjusted", "hazard_ratio"), ("hr_adjusted_low", "low"), ("cox_adjusted_p", "p")):
        assert row[name] == pytest.approx(table.loc[0, column], rel=1e-6)
    assert 0.5 < row["c_index_covariates"] < row["c_index_both"]
    assert row["n_complete"] == 200
    # A copy of the risk among the covariates leaves nothing to the risk, and no answer.
    slides.obs["copy"] = slides.obs["risk"]
    assert np.isnan(stp.tl.survival(slides, covariates="copy")["hr_adjusted"].item())


def test_patients_without_a_covariate_are_counted(slides) -> None:
    slides.obs.loc["s3", "age"] = np.nan
    slides.obs["grade"] = slides.obs["grade"].where(np.arange(200) > 9)
    table = stp.tl.hazard_ratios(slides, ["grade", "age"])
    assert (table.attrs["n_patients"], table.attrs["n_left_out"]) == (190, 10)
    assert stp.tl.survival(slides, covariates=["grade", "age"])["n_complete"].item() == 190


def test_errors(slides, frozen) -> None:
    before = frozen(slides)
    with pytest.raises(KeyError, match="'stage'.*covariates="):
        stp.tl.survival(slides, covariates="stage")
    with pytest.raises(KeyError, match="'stage'"):
        stp.tl.hazard_ratios(slides, "stage")
    with pytest.raises(ValueError, match="level between"):
        stp.tl.hazard_ratios(slides, "age", level=95)
    assert frozen(slides) == before
    slides.obs.loc[slides.obs["event"], "age"] = np.nan
    with pytest.raises(ValueError, match="an event among the patients with all of age"):
        stp.tl.hazard_ratios(slides, "age")
    assert np.isnan(stp.tl.survival(slides, covariates="age")["hr_adjusted"].item())
    slides.obs["age"] = np.nan
    with pytest.raises(ValueError, match="a patient with all of age"):
        stp.tl.hazard_ratios(slides, "age")
    slides.obs["patient"] = np.repeat([f"p{i}" for i in range(100)], 2)
    slides.obs["time"], slides.obs["event"], slides.obs["age"] = 1.0, True, np.arange(200.0)
    with pytest.raises(ValueError, match="slides that disagree in p0"):
        stp.tl.hazard_ratios(slides, "age")
