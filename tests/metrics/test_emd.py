import numpy as np
import ot
import pytest
from scipy import sparse
from scipy.spatial.distance import cdist
from scipy.stats import percentileofscore, wasserstein_distance

from stpredict.metrics import _emd as kernel
from stpredict.metrics import _pairs, emd, emd_uniform


@pytest.fixture
def section():
    rng = np.random.default_rng(0)
    xy = rng.random((60, 2)) * [300, 200]
    truth = rng.poisson(1.0, (60, 6)).astype(float)
    return truth, rng.random((60, 6)), xy


def diagonal(xy):
    return np.hypot(*np.ptp(xy, axis=0))


def test_exact_matches_scipy_on_a_line():
    rng = np.random.default_rng(1)
    x = rng.random(40) * 10
    truth, predicted = rng.random((2, 40, 5))
    xy = np.stack([x, np.zeros(40)], axis=1)
    expected = [wasserstein_distance(x, x, truth[:, g], predicted[:, g]) / np.ptp(x) for g in range(5)]
    np.testing.assert_allclose(emd(truth, predicted, xy, method="exact", scaling="mass"), expected, rtol=1e-9)
    sliced = emd(truth, predicted, xy, method="sliced", scaling="mass")
    np.testing.assert_allclose(sliced, expected, rtol=1e-3)


def test_exact_matches_pot_without_cancellation(section):
    truth, predicted, xy = section
    ranked = [
        np.stack([[percentileofscore(column, v, kind="mean") for v in column] for column in values.T], axis=1)
        for values in (truth, predicted)
    ]
    # The mid-rank of percentileofscore(kind="mean") lies half a step below the average rank.
    mass = [(r + 50 / 60) / (r + 50 / 60).sum(axis=0) for r in ranked]
    cost = cdist(xy, xy)
    expected = [ot.emd2(mass[0][:, g].copy(), mass[1][:, g].copy(), cost) / diagonal(xy) for g in range(6)]
    np.testing.assert_allclose(emd(truth, predicted, xy, method="exact"), expected, rtol=1e-7)
    uniform = np.full(60, 1 / 60)
    expected = [ot.emd2(mass[0][:, g].copy(), uniform, cost) / diagonal(xy) for g in range(6)]
    np.testing.assert_allclose(emd_uniform(truth, xy, method="exact"), expected, rtol=1e-7)


def test_sliced_matches_pot(section):
    truth, predicted, xy = section
    mass = [values / values.sum(axis=0) for values in (truth, predicted)]
    angles = np.pi * (np.arange(400) + 0.5) / 400
    directions = np.stack([np.cos(angles), np.sin(angles)])
    expected = [
        ot.sliced_wasserstein_distance(xy, xy, mass[0][:, g], mass[1][:, g], p=1, projections=directions)
        for g in range(6)
    ]
    found = emd(truth, predicted, xy, method="sliced", scaling="mass", n_projections=400)
    np.testing.assert_allclose(found, np.array(expected) * np.pi / 2 / diagonal(xy), rtol=2e-3)


def test_sliced_is_a_lower_bound_met_by_translations(section):
    truth, predicted, xy = section
    exact = emd(truth, predicted, xy, method="exact")
    sliced = emd(truth, predicted, xy, method="sliced")
    assert (sliced <= exact * 1.0001).all()
    assert (sliced > 0.6 * exact).all()
    square = np.stack(np.divmod(np.arange(100), 10), axis=1).astype(float)
    here, there = np.zeros((2, 100, 1))
    here[(square[:, 0] < 3) & (square[:, 1] < 3)] = 1
    there[(square[:, 0] > 3) & (square[:, 0] < 7) & (square[:, 1] > 3) & (square[:, 1] < 7)] = 1
    for method in ("exact", "sliced"):
        moved = emd(here, there, square, method=method, scaling="mass")
        np.testing.assert_allclose(moved, 4 * np.sqrt(2) / diagonal(square), rtol=1e-4)


@pytest.mark.parametrize("method", ["exact", "sliced"])
def test_invariances(section, method):
    truth, predicted, xy = section
    base = emd(truth, predicted, xy, method=method)
    np.testing.assert_allclose(emd(predicted, truth, xy, method=method), base, rtol=1e-6)
    np.testing.assert_allclose(emd(truth, predicted, 3 * xy - 7, method=method), base, rtol=1e-6)
    np.testing.assert_allclose(emd(truth, np.exp(predicted) - 5, xy, method=method), base, rtol=1e-6)
    np.testing.assert_array_equal(emd(sparse.csr_matrix(truth), predicted, xy, method=method), base)
    np.testing.assert_array_equal(emd(truth, truth, xy, method=method), 0)


def test_auto_chooses_by_size(section):
    truth, predicted, xy = section
    exact, sliced = (emd(truth, predicted, xy, method=method) for method in ("exact", "sliced"))
    np.testing.assert_array_equal(emd(truth, predicted, xy, max_exact=60), exact)
    np.testing.assert_array_equal(emd(truth, predicted, xy, max_exact=59), sliced)


def test_workers_do_not_change_the_result(section):
    truth, predicted, xy = section
    np.testing.assert_array_equal(emd(truth, predicted, xy, n_jobs=2), emd(truth, predicted, xy))


def test_undefined_maps(section):
    truth, predicted, xy = section
    truth[:, 0] = 0
    predicted[3, 1] = np.nan
    for method in ("exact", "sliced"):
        found = emd(truth, predicted, xy, method=method, scaling="mass")
        np.testing.assert_array_equal(np.isnan(found), [True, True, False, False, False, False])
        np.testing.assert_array_equal(
            np.isnan(emd_uniform(truth, xy, method=method, scaling="mass"))[:2], [True, False]
        )


@pytest.mark.parametrize("long", [1, 10_000])
def test_blocks_do_not_change_the_result(section, monkeypatch, long):
    """Nor does adding row to row, of few genes at a time, against adding up columns."""
    truth, predicted, xy = section
    whole = emd(truth, predicted, xy, method="sliced")
    monkeypatch.setattr(kernel, "_HELD", 130)
    monkeypatch.setattr(kernel, "_LONG", long)
    np.testing.assert_allclose(emd(truth, predicted, xy, method="sliced"), whole, rtol=1e-12)
    monkeypatch.setattr(_pairs, "_BLOCK", 500)
    np.testing.assert_allclose(emd(truth, predicted, xy, method="sliced"), whole, rtol=1e-12)


def test_one_and_no_observation():
    one = np.ones((1, 2))
    np.testing.assert_array_equal(emd(one, one, np.ones((1, 2))), 0)
    assert np.isnan(emd(np.ones((0, 2)), np.ones((0, 2)), np.ones((0, 2)))).all()


def test_errors(section):
    truth, predicted, xy = section
    with pytest.raises(ValueError, match="non-negative"):
        emd(truth - 5, predicted, xy, scaling="mass")
    with pytest.raises(ValueError, match="positions of shape"):
        emd(truth, predicted, xy[:4])
    with pytest.raises(ValueError, match="finite positions"):
        emd(truth, predicted, np.where(xy > 100, np.nan, xy))
    with pytest.raises(ValueError, match="method"):
        emd(truth, predicted, xy, method="fast")
    with pytest.raises(ValueError, match="scaling"):
        emd(truth, predicted, xy, scaling="ranks")
    with pytest.raises(ValueError, match="projection"):
        emd(truth, predicted, xy, n_projections=0)


def test_fewer_directions_of_many_observations_change_next_to_nothing() -> None:
    """What the defaults take of a large section is within half a percent of many times as many directions."""
    side = 101
    y, x = np.divmod(np.arange(side**2), side)
    rng = np.random.default_rng(0)
    truth = np.stack([np.sin(x / 9 + 1) + np.cos(y / 14), np.exp(-((x - 20) ** 2 + (y - 70) ** 2) / 300.0)], axis=1)
    predicted = np.stack([np.cos(x / 17), np.exp(-((x - 60) ** 2 + (y - 30) ** 2) / 900.0)], axis=1)
    truth, predicted = (values + rng.normal(0, 0.3, values.shape) for values in (truth, predicted))
    xy = np.stack([x, y], axis=1).astype(float)
    few, many = emd(truth, predicted, xy), emd(truth, predicted, xy, n_projections=600)
    assert np.abs(few / many - 1).max() < 0.005
    assert not np.array_equal(few, emd(truth, predicted, xy, n_projections=200))


def test_bins_of_many_observations_change_next_to_nothing(monkeypatch) -> None:
    """Smooth maps and noise: what is summed in bins is what is summed observation by observation."""
    rng = np.random.default_rng(0)
    xy = rng.random((12_000, 2))
    smooth = np.sin(9 * xy[:, :1])
    truth = smooth * (0, 0.5, 2) + rng.normal(size=(len(xy), 3))
    predicted = smooth * (0, 0.3, 1) + rng.normal(size=(len(xy), 3))
    for other in (predicted, None):
        found, wanted = [], []
        for many, kept in ((10_000, found), (10**9, wanted)):
            monkeypatch.setattr("stpredict.metrics._emd._MANY", many)
            kept.append(
                emd(truth, other, xy, n_projections=20)
                if other is not None
                else emd_uniform(truth, xy, n_projections=20)
            )
        np.testing.assert_allclose(found, wanted, rtol=5e-3)
