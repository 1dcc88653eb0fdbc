import numpy as np
import pytest

from stpredict.metrics import _concordance, concordance
from stpredict.metrics._concordance import concordant_pairs


@pytest.fixture(params=[0, 1, 2])
def cohort(request):
    """Follow-ups and risks with many ties of every kind."""
    rng = np.random.default_rng(request.param)
    return rng.integers(1, 15, 80).astype(float), rng.integers(0, 2, 80), rng.integers(0, 12, 80).astype(float)


def naive(time, event, risk, stratum=None):
    right = comparable = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            same = stratum is None or stratum[i] == stratum[j]
            if event[i] and same and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                comparable += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return right / comparable


def test_matches_lifelines(cohort):
    index = pytest.importorskip("lifelines.utils").concordance_index
    time, event, risk = cohort
    assert concordance(*cohort) == pytest.approx(index(time, -risk, event), rel=1e-12)


def test_matches_scikit_survival(cohort):
    index = pytest.importorskip("sksurv.metrics").concordance_index_censored
    time, event, risk = cohort
    assert concordance(*cohort) == pytest.approx(index(event.astype(bool), time, risk)[0], rel=1e-12)


def test_matches_the_definition(cohort, monkeypatch):
    expected = naive(*cohort)
    assert concordance(*cohort) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(_concordance, "_BLOCK", 100)
    assert concordance(*cohort) == pytest.approx(expected, rel=1e-12)


def test_ordering():
    time, event = np.arange(1, 6), np.ones(5)
    assert concordance(time, event, -time) == 1
    assert concordance(time, event, time) == 0
    assert concordance(time, event, np.ones(5)) == 0.5
    assert concordance(time, event.astype(bool), -np.exp(time)) == 1


def test_no_comparable_pair():
    assert np.isnan(concordance([1, 2], [0, 0], [1, 2]))
    assert np.isnan(concordance([1, 1], [1, 1], [1, 2]))
    assert np.isnan(concordance([3], [1], [1]))
    assert np.isnan(concordance([], [], []))
    assert concordance([1, 1], [1, 0], [2, 1]) == 1


def test_weights_are_resamples(cohort):
    time, event, risk = cohort
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, 80, (3, 80))
    weights = np.stack([np.bincount(rows, minlength=80) for rows in drawn])
    right, comparable = concordant_pairs(*cohort, weights=weights)
    for rows, found in zip(drawn, right / comparable, strict=True):
        assert found == pytest.approx(concordance(time[rows], event[rows], risk[rows]), rel=1e-12)


def test_strata_compare_within(cohort):
    time, event, risk = cohort
    stratum = np.arange(80) % 3
    right, comparable = concordant_pairs(*cohort, strata=stratum)
    assert right[0] / comparable[0] == pytest.approx(naive(time, event, risk, stratum), rel=1e-12)
    # An offset of each stratum changes nothing.
    moved, _ = concordant_pairs(time, event, risk + 100.0 * stratum, strata=stratum)
    assert moved == right


def test_errors():
    with pytest.raises(ValueError, match="one shape"):
        concordance([1, 2], [1, 0], [1])
    with pytest.raises(ValueError, match="risk without NaN"):
        concordance([1, 2], [1, 0], [1, np.nan])
    with pytest.raises(ValueError, match="0 or 1"):
        concordance([1, 2], [1, 2], [1, 2])
