from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from stpredict.metrics._log_normalize import log_normalize
from stpredict.metrics._noise_ceiling import _depth_variance, expected_log1p, noise_ceiling


def simulate(seed: int, n: int, n_genes: int, depth: float, spread: float):
    """Counts, true log-normalized values and the mask of genes of constant proportion."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 1.0, n_genes)
    loadings = rng.normal(0, 0.5, (3, n_genes))
    constant = np.arange(n_genes) % 2 == 0
    loadings[:, constant] = 0
    proportions = base * np.exp(rng.normal(size=(n, 3)) @ loadings)
    varying = proportions[:, ~constant].sum(axis=1, keepdims=True)
    proportions[:, ~constant] *= base[~constant].sum() / varying
    proportions /= base.sum()
    counts = rng.poisson(proportions * depth * rng.lognormal(0, spread, (n, 1)))
    return counts, np.log1p(1e4 * proportions), constant


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


@pytest.mark.parametrize("depth", [500, 10_000])
@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_agrees_with_the_truth(depth: float, spread: float) -> None:
    counts, expected, constant = simulate(0, 1000, 300, depth, spread)
    measured = log_normalize(counts, counts.sum(axis=1))
    truth = correlation(expected[:, ~constant], measured[:, ~constant])
    estimate = noise_ceiling(counts, genes=~constant)
    assert estimate.mean() == pytest.approx(truth.mean(), abs=0.03)
    assert np.sqrt((estimate * np.abs(estimate)).mean()) == pytest.approx(np.sqrt((truth**2).mean()), abs=0.025)
    assert correlation(estimate, truth) > 0.9
    without_signal = noise_ceiling(counts, genes=constant)
    assert np.mean(without_signal) == pytest.approx(0, abs=0.04)
    assert np.mean(without_signal < 0) > 0.3


def test_panel_size_factors_agree_with_the_truth() -> None:
    counts, expected, constant = simulate(1, 1000, 300, 10_000, 0.5)
    panel = np.flatnonzero(~constant)
    measured = log_normalize(counts, counts[:, panel].sum(axis=1))[:, panel]
    within = np.expm1(expected[:, panel])
    truth = correlation(np.log1p(1e4 * within / within.sum(axis=1, keepdims=True)), measured)
    estimate = noise_ceiling(counts, genes=panel, size_columns=panel)
    assert estimate.mean() == pytest.approx(truth.mean(), abs=0.03)


def testexpected_log1p_matches_the_sum_over_counts() -> None:
    from scipy.stats import poisson

    rates = np.array([0.0, 1e-4, 0.01, 1.0, 30.0, 900.0])
    counts = np.arange(2000)
    for scale in (0.05, 1.0, 20.0, 500.0):
        expected = (poisson.pmf(counts, rates[:, None]) * np.log1p(scale * counts)).sum(axis=1)
        np.testing.assert_allclose(expected_log1p(rates, scale), expected, rtol=1e-6, atol=1e-10)


def test_depth_variance_matches_the_observations() -> None:
    depths = np.random.default_rng(0).lognormal(6, 0.7, 400)
    proportion = np.array([1e-4, 1e-3, 1e-2, 1e-1])
    expected = np.stack([expected_log1p(proportion * depth, 1e4 / depth) for depth in depths]).var(axis=0)
    np.testing.assert_allclose(_depth_variance(proportion, depths, 1e4), expected, rtol=0.02)
    assert (_depth_variance(proportion, np.full(5, 300.0), 1e4) == 0).all()


def test_sparse_equals_dense_and_seeds_repeat() -> None:
    counts, _, _ = simulate(2, 60, 30, 300, 0.5)
    dense = noise_ceiling(counts)
    for form in (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array):
        np.testing.assert_array_equal(noise_ceiling(form(counts.astype(np.float32))), dense)
    assert not np.array_equal(noise_ceiling(counts, seed=1), dense)


def test_genes_are_columns_in_their_order() -> None:
    counts, _, _ = simulate(3, 400, 40, 20_000, 0.2)
    every = noise_ceiling(counts)
    picked = noise_ceiling(counts, genes=[7, 3, 7])
    assert picked.shape == (3,)
    np.testing.assert_allclose(picked, every[[7, 3, 7]], atol=0.1)


def test_rare_genes_and_small_sections_are_undefined() -> None:
    counts, _, _ = simulate(4, 50, 10, 300, 0.2)
    counts[:, 2] = 0
    counts[:2, 5] = 1
    counts[2:, 5] = 0
    result = noise_ceiling(counts)
    assert np.isnan(result[[2, 5]]).all()
    assert np.isfinite(np.delete(result, [2, 5])).all()
    assert np.isnan(noise_ceiling(counts[:2])).all()
    assert np.isnan(noise_ceiling(np.zeros((5, 3)))).all()


def test_empty_observations_do_not_matter() -> None:
    counts, _, _ = simulate(5, 50, 10, 300, 0.2)
    padded = np.vstack([counts, np.zeros((20, 10), dtype=counts.dtype)])
    np.testing.assert_array_equal(noise_ceiling(padded), noise_ceiling(counts))


@pytest.mark.parametrize(
    ("counts", "options"),
    [
        (np.full((5, 2), 0.5), {}),
        (np.full((5, 2), -1), {}),
        (np.full((5, 2), np.nan), {}),
        (np.ones((5, 2)), {"n_repeats": 0}),
        (np.ones((5, 2)), {"target_sum": -1}),
        (np.ones(5), {}),
    ],
)
def test_errors(counts, options) -> None:
    with pytest.raises(ValueError, match="expected"):
        noise_ceiling(counts, **options)
