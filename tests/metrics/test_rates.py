from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from stpredict import metrics
from stpredict.metrics._rates import (
    LARGEST_RATIO,
    leveled,
    log1p_of_rates,
    rates_of_log1p,
    rates_of_residuals,
    residuals_of_rates,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_residuals_are_scanpys(rng: np.random.Generator) -> None:
    import anndata as ad
    import scanpy as sc

    counts = rng.poisson(rng.uniform(0.3, 6, 30) * rng.uniform(0.2, 3, (50, 1))).astype(np.float32)
    counts[:, 0] = 0
    for theta, clip in ((100.0, None), (10.0, 2.0), (np.inf, np.inf)):
        reference = ad.AnnData(counts[:, 1:])  # it divides 0 by 0 for genes that were never seen
        sc.experimental.pp.normalize_pearson_residuals(reference, theta=theta, clip=clip)
        for form in (np.asarray, sparse.csr_matrix, sparse.csc_array):
            found = metrics.pearson_residuals(form(counts), counts.sum(axis=1), theta=theta, clip=clip)
            np.testing.assert_allclose(found[:, 1:], reference.X, rtol=1e-4, atol=1e-5)
            assert found.dtype == np.float32
            assert not found[:, 0].any()


def test_residuals_are_the_same_in_blocks(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from stpredict.metrics import _pearson_residuals

    counts = rng.poisson(2.0, (40, 7))
    depth = counts.sum(axis=1) + 0.0
    whole = metrics.pearson_residuals(counts, depth)
    monkeypatch.setattr(_pearson_residuals, "_BLOCK", 20)
    np.testing.assert_array_equal(metrics.pearson_residuals(counts, depth), whole)
    depth[3], counts[4] = np.nan, 0
    depth[4] = 0
    changed = metrics.pearson_residuals(counts, depth)
    assert np.isnan(changed[3]).all()
    assert not changed[4].any()
    assert np.isfinite(np.delete(changed, 3, axis=0)).all()


@pytest.mark.parametrize("target_sum", [1e4, 300.0])
def test_log1p_and_rates_are_inverse_and_true(rng: np.random.Generator, target_sum: float) -> None:
    depth = rng.gamma(4, 60, 400)
    rates = np.geomspace(1e-6, 0.3, 40)
    values = log1p_of_rates(np.tile(rates, (2, 1)), depth, target_sum)
    np.testing.assert_allclose(rates_of_log1p(values, depth, target_sum)[1], rates, rtol=1e-3)
    assert rates_of_log1p(np.array([[-0.3, 0.0]]), depth, target_sum).tolist() == [[0.0, 0.0]]
    assert log1p_of_rates(np.zeros((1, 1)), depth, target_sum).item() == 0
    # The mean of what is drawn, which for few counts is far from the logarithm of the mean.
    drawn = rng.poisson(depth[:, None, None] * np.array([0.0005, 0.02])[:, None], (400, 2, 300))
    mean = np.log1p(drawn * target_sum / depth[:, None, None]).mean(axis=(0, 2))
    np.testing.assert_allclose(rates_of_log1p(mean[None], depth, target_sum)[0], [0.0005, 0.02], rtol=0.05)
    assert np.expm1(mean[0]) / target_sum < 0.7 * 0.0005


def test_residuals_and_rates(rng: np.random.Generator) -> None:
    depth, share = rng.gamma(4, 60, 600), np.array([0.001, 0.02, 0.0])
    rates = share * rng.uniform(0.5, 2, (600, 1))
    values = residuals_of_rates(rates, share, depth)
    np.testing.assert_allclose(rates_of_residuals(values, share, depth), rates, rtol=1e-9)
    assert not values[:, 2].any()
    assert np.sign(rates_of_residuals(np.full((1, 3), -1e3), share, depth)).tolist() == [[-1, -1, 0]]
    # The mean of residuals that are drawn at one relative rate.
    counts = rng.poisson(depth[:, None] * share * 1.7, (200, 600, 3))
    drawn = np.mean([metrics.pearson_residuals(c, depth, proportions=share, clip=np.inf) for c in counts], axis=(0, 1))
    np.testing.assert_allclose(residuals_of_rates(1.7 * share[None], share, depth)[0, :2], drawn[:2], rtol=0.05)


def test_leveled_rates_have_the_proportion_and_bounds(rng: np.random.Generator) -> None:
    depth, share = rng.gamma(4, 60, 500), np.array([0.01, 0.02])
    rates = np.column_stack([7 * share[0] * rng.uniform(0.5, 2, 500), np.r_[0.0, 1e6, np.ones(498)]])
    found = leveled(rates, share, depth)
    np.testing.assert_allclose(depth @ found / depth.sum(), share)
    np.testing.assert_allclose(found[:, 0] / found[0, 0], rates[:, 0] / rates[0, 0])
    assert found[1, 1] / found[0, 1] == pytest.approx(LARGEST_RATIO**2)
    np.testing.assert_allclose(leveled(0 * rates, share, depth), np.tile(share, (500, 1)))
