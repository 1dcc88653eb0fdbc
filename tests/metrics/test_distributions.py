"""Scores of samples against closed forms and against loops that follow the definitions."""

import itertools

import numpy as np
import pytest
from scipy import sparse, stats

from stpredict import metrics as m

SAMPLED = (m.crps, m.energy_score, m.relative_variance_distance, m.correlation_distance)


@pytest.fixture(scope="module")
def drawn():
    """Truth (7, 4) and 6 samples of each of its values, on scales of their own."""
    rng = np.random.default_rng(0)
    scale = np.array([1, 10, 0.1, 3])
    common = rng.normal(size=(7, 7, 1))
    values = scale * (rng.normal(size=(7, 7, 4)) + common) + 5
    return values[:, 0], values[:, 1:]


@pytest.mark.parametrize("fair", [True, False])
def test_crps_follows_its_definition(drawn, fair):
    truth, samples = drawn
    expected = np.zeros(4)
    for i, g in itertools.product(range(7), range(4)):
        x, y = samples[i, :, g], truth[i, g]
        pairs = np.abs(x[:, None] - x)[~np.eye(6, dtype=bool)] if fair else np.abs(x[:, None] - x)
        expected[g] += (np.abs(x - y).mean() - pairs.mean() / 2) / 7
    np.testing.assert_allclose(m.crps(truth, samples, fair=fair), expected, rtol=1e-12)


def test_fair_crps_is_that_of_the_distribution_whatever_the_number_of_samples():
    rng = np.random.default_rng(1)
    mean, std, truth = rng.normal(size=(1, 3)), np.array([[0.5, 1, 2]]), rng.normal(size=(1, 3))
    exact = m.crps_normal(truth, mean, std)
    n = 40_000
    for n_samples in (2, 5):
        samples = mean + std * rng.normal(size=(n, n_samples, 3))
        many = np.repeat(truth, n, axis=0)
        np.testing.assert_allclose(m.crps(many, samples), exact, atol=0.015)
        assert (m.crps(many, samples, fair=False) > exact + 0.04).all()


def test_crps_of_a_normal_distribution_matches_its_integral():
    truth, mean, std = np.array([[0.3, -2.0, 4.0]]), np.array([[0.0, 1.0, 4.0]]), np.array([[1.0, 0.5, 2.0]])
    x = np.linspace(-15, 15, 300_001)[:, None]
    step = np.square(stats.norm.cdf(x, mean, std) - (x >= truth))
    np.testing.assert_allclose(m.crps_normal(truth, mean, std), np.trapezoid(step, x, axis=0), atol=1e-4)
    np.testing.assert_allclose(m.crps_normal(truth, mean, 0 * std), np.abs(truth - mean)[0])
    assert np.isnan(m.crps_normal(truth, mean, -std)).all()


def test_one_sample_is_scored_by_its_distance(drawn):
    truth, samples = drawn
    one = samples[:, :1]
    np.testing.assert_allclose(m.crps(truth, one), np.abs(truth - one[:, 0]).mean(axis=0))
    np.testing.assert_allclose(m.energy_score(truth, one), np.linalg.norm(truth - one[:, 0], axis=1))


@pytest.mark.parametrize("fair", [True, False])
def test_energy_score_follows_its_definition(drawn, fair):
    truth, samples = drawn
    expected = []
    for x, y in zip(samples, truth, strict=True):
        apart = np.linalg.norm(x[:, None] - x, axis=2)
        apart = apart[~np.eye(6, dtype=bool)] if fair else apart
        expected.append(np.linalg.norm(x - y, axis=1).mean() - apart.mean() / 2)
    np.testing.assert_allclose(m.energy_score(truth, samples, fair=fair), expected, rtol=1e-10)
    np.testing.assert_allclose(m.energy_score(truth + 1e6, samples + 1e6, fair=fair), expected, rtol=1e-6)


def test_energy_score_of_one_gene_is_its_crps(drawn):
    truth, samples = drawn[0][:, :1], drawn[1][:, :, :1]
    np.testing.assert_allclose(m.energy_score(truth, samples).mean(), m.crps(truth, samples)[0], rtol=1e-8)


def test_energy_score_sees_whether_genes_vary_together():
    rng = np.random.default_rng(2)
    common = rng.normal(size=(300, 21, 1))
    together = np.concatenate([common, common], axis=2) + 0.1 * rng.normal(size=(300, 21, 2))
    truth, samples = together[:, 0], together[:, 1:]
    apart = np.stack([samples[:, :, 0], rng.permuted(samples[:, :, 1], axis=1)], axis=2)
    np.testing.assert_allclose(m.crps(truth, samples), m.crps(truth, apart))
    assert m.energy_score(truth, samples).mean() < m.energy_score(truth, apart).mean() - 0.02


def test_relative_variance_distance_of_samples_and_of_means(drawn):
    truth, samples = drawn
    variance = truth.var(axis=0)
    for given, found in (
        (samples, np.mean([samples[:, s].var(axis=0) for s in range(6)], axis=0)),
        (samples.mean(axis=1), samples.mean(axis=1).var(axis=0)),
    ):
        expected = (found - variance) ** 2 / variance**2
        np.testing.assert_allclose(m.relative_variance_distance(truth, given), expected, rtol=1e-10)


def test_relative_variance_distance_of_a_perfect_model_is_lower_on_samples():
    rng = np.random.default_rng(3)
    center = rng.normal(size=(500, 1, 3))
    values = center + rng.normal(size=(500, 21, 3))
    truth, samples = values[:, 0], values[:, 1:]
    assert m.relative_variance_distance(truth, samples).max() < 0.03
    assert m.relative_variance_distance(truth, samples.mean(axis=1)).min() > 0.1


def test_correlation_distance_is_that_of_the_matrices(drawn):
    truth, samples = drawn
    measured = np.corrcoef(truth.T)
    for given, found in (
        (samples, np.mean([np.corrcoef(samples[:, s].T) for s in range(6)], axis=0)),
        (samples[:, 2], np.corrcoef(samples[:, 2].T)),
    ):
        distance = m.correlation_distance(truth, given)
        np.testing.assert_allclose(distance, np.sqrt(np.square(found - measured).sum(axis=0) / 3), rtol=1e-10)
        frobenius = np.linalg.norm(found - measured) / np.sqrt(4 * 3)
        np.testing.assert_allclose(np.sqrt(np.mean(distance**2)), frobenius, rtol=1e-10)


def test_a_constant_gene_has_no_correlation_and_takes_part_in_none(drawn):
    truth, samples = drawn
    rest = m.correlation_distance(truth[:, 1:], samples[:, :, 1:])
    for flat_truth in (True, False):
        y, x = truth.copy(), samples.copy()
        (y if flat_truth else x[:, 1])[:, 0] = 3.0
        found = m.correlation_distance(y, x)
        assert np.isnan(found[0])
        np.testing.assert_allclose(found[1:], rest)
    assert np.isnan(m.correlation_distance(truth[:, :1], samples[:, :, :1])).all()


@pytest.mark.parametrize("n_samples", [19, 20, 50])
def test_quantiles_hold_another_sample_as_often_as_they_say(n_samples):
    rng = np.random.default_rng(4)
    values = rng.exponential(size=(20_000, n_samples + 1, 1)).astype(np.float32)
    bounds = m.sample_quantiles(values[:, 1:], [0.05, 0.95])
    assert bounds.shape == (20_000, 2, 1)
    assert bounds.dtype == np.float32
    coverage = m.interval_coverage(values[:, 0], bounds[:, 0], bounds[:, 1])
    np.testing.assert_allclose(coverage, 0.9, atol=0.008)


def test_coverage_counts_bounds_and_leaves_gaps_undefined():
    truth = np.array([[1.0, 1.0, np.nan], [2.0, 5.0, 1.0]])
    lower, upper = np.array([[1.0, 2, 0], [0, 0, 0]]), np.array([[1.0, 3, 9], [2, 4, 9]])
    np.testing.assert_array_equal(m.interval_coverage(truth, lower, upper), [1, 0, np.nan])
    np.testing.assert_array_equal(m.interval_coverage(sparse.csr_matrix(truth), lower, upper), [1, 0, np.nan])


@pytest.mark.parametrize("metric", SAMPLED)
def test_sparse_truth_and_any_precision_agree(drawn, metric):
    truth, samples = (values.astype(np.float32) for values in drawn)
    wanted = metric(truth, samples)
    np.testing.assert_allclose(metric(sparse.csr_matrix(truth), samples), wanted, rtol=1e-12)
    np.testing.assert_allclose(metric(truth.astype(float), samples.astype(float)), wanted, rtol=1e-5)


@pytest.mark.parametrize("metric", SAMPLED)
@pytest.mark.parametrize(
    ("shape", "message"),
    [((7, 6, 3), r"for a truth of shape \(7, 4\); found \(7, 6, 3\)"), ((7, 0, 4), "found"), ((6, 6, 4), "found")],
)
def test_samples_of_another_shape_are_refused(drawn, metric, shape, message):
    with pytest.raises(ValueError, match=message):
        metric(drawn[0], np.zeros(shape))
    with pytest.raises(TypeError, match="real numbers"):
        metric(drawn[0], np.full((7, 6, 4), "a"))


@pytest.mark.parametrize("metric", SAMPLED)
def test_nothing_to_score_is_undefined(metric):
    found = metric(np.zeros((0, 3)), np.zeros((0, 5, 3)))
    assert np.isnan(found).all()


@pytest.mark.parametrize("levels", [[0], [1.0], [0.5, np.nan], [[0.5]]])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(ValueError, match="expected levels between 0 and 1"):
        m.sample_quantiles(np.zeros((2, 3, 4)), levels)
    with pytest.raises(ValueError, match="n_obs, n_samples, n_genes"):
        m.sample_quantiles(np.zeros((2, 3)), [0.5])


def test_blocks_change_nothing(monkeypatch):
    from stpredict.metrics import _energy_score, _pairs

    rng = np.random.default_rng(5)
    truth, samples = rng.normal(size=(9, 8)), rng.normal(size=(9, 4, 8))
    whole = [metric(truth, samples) for metric in SAMPLED]
    monkeypatch.setattr(_pairs, "_BLOCK", 50)
    monkeypatch.setattr(_energy_score, "_BLOCK", 50)
    for metric, wanted in zip(SAMPLED, whole, strict=True):
        np.testing.assert_allclose(metric(truth, samples), wanted, rtol=1e-10)
