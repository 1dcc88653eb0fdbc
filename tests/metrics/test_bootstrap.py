import numpy as np
import pytest
from scipy import stats

from stpredict.metrics import bootstrap_mean


def test_interval_matches_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=40)
    mean, low, high = bootstrap_mean(values, n_boot=20000)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=1).confidence_interval
    assert mean == pytest.approx(values.mean())
    np.testing.assert_allclose([low, high], [expected.low, expected.high], rtol=0.02)


def test_groups_are_averaged_first_and_resampled_whole():
    values = np.array([0.0] * 99 + [1.0])
    groups = ["a"] * 99 + ["b"]
    mean, low, high = bootstrap_mean(values, groups)
    assert (mean, low, high) == (0.5, 0.0, 1.0)
    mean, low, high = bootstrap_mean(values)
    assert mean == pytest.approx(0.01)
    assert high < 0.05


def test_columns_equal_single_calls_without_gaps():
    values = np.random.default_rng(1).normal(size=(12, 3))
    groups = np.repeat(np.arange(4), 3)
    together = bootstrap_mean(values, groups)
    for column in range(3):
        alone = bootstrap_mean(values[:, column], groups)
        np.testing.assert_allclose([part[column] for part in together], alone, rtol=1e-12)


def test_undefined_values_are_left_out():
    values = np.array([1.0, np.nan, 3.0, 5.0, np.nan])
    groups = ["a", "a", "b", "c", "d"]
    np.testing.assert_allclose(bootstrap_mean(values, groups), bootstrap_mean([1.0, 3.0, 5.0]))
    sparse = np.full(30, np.nan)
    sparse[10:22] = np.random.default_rng(5).normal(size=12)
    assert bootstrap_mean(sparse) == bootstrap_mean(sparse[10:22])
    table = np.stack([values, np.arange(5.0)], axis=1)
    mean, low, high = bootstrap_mean(table, groups)
    np.testing.assert_allclose(mean, [3.0, np.mean([0.5, 2, 3, 4])])
    assert (low < mean).all()
    assert (mean < high).all()


def test_nothing_is_known_from_one_group():
    mean, low, high = bootstrap_mean([1.0, 2.0], ["a", "a"])
    assert mean == 1.5
    assert np.isnan([low, high]).all()
    assert np.isnan(bootstrap_mean([np.nan, np.nan])).all()
    assert np.isnan(bootstrap_mean([])).all()


def test_seed():
    values = np.random.default_rng(2).normal(size=30)
    first = bootstrap_mean(values, seed=3)
    assert first == bootstrap_mean(values, seed=3)
    assert first != bootstrap_mean(values, seed=4)


def test_level_widens_the_interval():
    values = np.random.default_rng(3).normal(size=30)
    _, low, high = bootstrap_mean(values, level=0.5)
    _, lower, higher = bootstrap_mean(values, level=0.99)
    assert lower < low < high < higher


def test_coverage_of_the_interval():
    rng = np.random.default_rng(4)
    hit = 0
    for trial in range(200):
        _, low, high = bootstrap_mean(rng.normal(size=40), n_boot=400, level=0.9, seed=trial)
        hit += low < 0 < high
    assert 0.82 < hit / 200 < 0.95


def test_errors():
    with pytest.raises(ValueError, match="one group per value"):
        bootstrap_mean([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="group for every value"):
        bootstrap_mean([1.0, 2.0], ["a", None])
    with pytest.raises(ValueError, match="level"):
        bootstrap_mean([1.0], level=1.0)
    with pytest.raises(ValueError, match="resample"):
        bootstrap_mean([1.0], n_boot=0)
    with pytest.raises(ValueError, match="shape"):
        bootstrap_mean(np.ones((2, 2, 2)))
