from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stpredict.slots._outcome import patient_outcomes, read_outcome


@pytest.fixture
def slides() -> ad.AnnData:
    """Five slides of four patients; `p1` has two."""
    obs = pd.DataFrame(
        {
            "patient": ["p1", "p1", "p2", "p3", "p4"],
            "time": [5.0, 5.0, 3.0, 8.0, 2.5],
            "event": [1, 1, 0, 1, 0],
            "risk_group": pd.Categorical(["high", "low", "low", "high", "low"]),
        },
        index=[f"s{i}" for i in range(5)],
    )
    return ad.AnnData(np.zeros((5, 1), np.float32), obs=obs)


@pytest.mark.parametrize("dtype", [int, float, bool, "boolean", "Int64", "category"])
def test_reads_events_of_every_kind(slides, dtype):
    slides.obs["event"] = slides.obs["event"].astype("category" if dtype == "category" else dtype)
    time, event = read_outcome(slides)
    assert time.dtype == event.dtype == np.float32
    np.testing.assert_array_equal(time, [5, 5, 3, 8, 2.5])
    np.testing.assert_array_equal(event, [1, 1, 0, 1, 0])


@pytest.mark.parametrize("rows", [np.array([False, False, True, True, False]), np.array([2, 3])])
def test_some_rows(slides, rows):
    slides.obs.loc["s0", "time"] = -1  # not asked for
    time, event = read_outcome(slides, "time", "event", rows)
    np.testing.assert_array_equal(time, [3, 8])
    np.testing.assert_array_equal(event, [0, 1])


def test_other_columns(slides):
    slides.obs = slides.obs.rename(columns={"time": "days", "event": "died", "patient": "case"})
    assert read_outcome(slides, "days", "died", patient_key="case")[0][0] == 5
    with pytest.raises(KeyError, match="'time'.*follow-up"):
        read_outcome(slides)
    with pytest.raises(KeyError, match="'event'"):
        read_outcome(slides, "days")
    with pytest.raises(KeyError, match="'patient'"):
        read_outcome(slides, "days", "died")


@pytest.mark.parametrize("value", [0.0, -3.0, np.nan, np.inf])
def test_times_are_positive_and_finite(slides, value):
    slides.obs.loc["s3", "time"] = value
    with pytest.raises(ValueError, match=r"positive, finite times.*'s3'"):
        read_outcome(slides)


def test_events_are_binary(slides):
    slides.obs["event"] = [1, 1, 2, 1, 0]
    with pytest.raises(ValueError, match=r"0, 1 or boolean; found 2 .*'s2'"):
        read_outcome(slides)
    slides.obs["event"] = [1, 1, np.nan, 1, 0]
    with pytest.raises(ValueError, match="0, 1 or boolean; found nan"):
        read_outcome(slides)
    slides.obs["event"] = ["dead", "dead", "alive", "dead", "alive"]
    with pytest.raises(ValueError, match="0, 1 or boolean; found 'dead'"):
        read_outcome(slides)


def test_all_censored(slides):
    slides.obs["event"] = 0
    with pytest.raises(ValueError, match="at least one event.*5 censored"):
        read_outcome(slides)


@pytest.mark.parametrize(("column", "value"), [("time", 6.0), ("event", 0)])
def test_slides_of_a_patient_agree(slides, column, value):
    slides.obs.loc["s1", column] = value
    with pytest.raises(ValueError, match="disagree in p1"):
        read_outcome(slides)
    assert len(read_outcome(slides, patient_key=None)[0]) == 5
    assert len(read_outcome(slides, rows=np.array([1, 2, 3]))[0]) == 3


def test_slides_become_patients(slides):
    risk = np.array([1.0, 0.0, -1.0, 2.0, 0.5])
    options = {"time": "time", "event": "event", "group": "risk_group", "patient_key": "patient"}
    table = patient_outcomes(slides, np.arange(5), risk=risk, fold=np.array([0, 0, 1, 1, 0]), **options)
    assert table["patient"].tolist() == ["p1", "p2", "p3", "p4"]
    assert table["risk"].tolist() == [0.5, -1, 2, 0.5]
    assert table["n_slides"].tolist() == [2, 1, 1, 1]
    # One slide of p1 in either group: that of the higher risk decides.
    assert table["group"].tolist() == ["high", "low", "high", "low"]
    assert table["fold"].tolist() == [0, 1, 1, 0]
    split = patient_outcomes(slides, np.arange(5), risk=risk, fold=np.array([0, 1, 1, 1, 0]), **options)
    assert split["fold"].tolist() == [-1, 1, 1, 0]
    slides.obs["risk_group"] = ["high", None, "low", "high", "low"]
    with pytest.raises(ValueError, match="group for every slide"):
        patient_outcomes(slides, np.arange(5), risk=risk, fold=None, **options)
