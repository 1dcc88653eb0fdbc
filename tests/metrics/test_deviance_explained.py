from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from stpredict import metrics


def drawn(n: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, true rates and depths: genes of few to many counts, with and without signal."""
    rng = np.random.default_rng(seed)
    depth = rng.gamma(4, 100, n)
    share = np.array([0.0005, 0.005, 0.05])
    spread = rng.gamma(2.5, 0.4, (n, 1))
    rates = np.hstack([share * spread, np.tile(share, (n, 1))])
    return rng.poisson(depth[:, None] * rates), rates, depth


def test_it_is_one_minus_the_ratio_of_deviances() -> None:
    from sklearn.metrics import d2_tweedie_score

    counts, rates, depth = drawn(200)
    found = metrics.deviance_explained(counts, rates, depth, level=False)
    for gene, value in enumerate(found):
        x, mean = counts[:, gene], depth * rates[:, gene]
        constant = depth * x.sum() / depth.sum()
        deviance = lambda m, x=x: 2 * np.sum(np.where(x > 0, x * np.log(np.maximum(x, 1) / m), 0) - (x - m))
        assert value == pytest.approx(1 - deviance(mean) / deviance(constant))
    equal = np.full(200, 300.0)
    reference = d2_tweedie_score(counts[:, 2], equal * rates[:, 2], power=1)
    assert metrics.deviance_explained(counts[:, [2]], rates[:, [2]], equal, level=False)[0] == pytest.approx(reference)


@pytest.mark.parametrize("theta", [np.inf, 5.0])
def test_level_and_depth_explain_nothing(theta: float) -> None:
    counts, rates, depth = drawn()
    score = lambda r, **options: metrics.deviance_explained(counts, r, depth, theta=theta, **options)
    truth = score(rates)
    np.testing.assert_allclose(score(rates * [3, 0.1, 7, 1, 1, 2]), truth)
    assert (score(3 * rates, level=False)[:3] < truth[:3] - 0.1).all()
    np.testing.assert_allclose(score(np.ones_like(rates)), 0, atol=1e-12)
    assert np.abs(truth[3:]).max() < 1e-2
    assert (score(depth[:, None] * np.ones((1, 6)))[3:] < -0.01).any()  # a map of the depth, which is given already
    assert (np.diff(truth[:3]) > 0).all()


def test_the_ceiling_is_what_the_truth_explains() -> None:
    found = [
        (metrics.deviance_explained(c, r, d), metrics.deviance_ceiling(c, d))
        for c, r, d in map(drawn, [3000] * 4, range(4))
    ]
    explained, ceiling = (np.mean(values, axis=0) for values in zip(*found, strict=True))
    np.testing.assert_allclose(ceiling[3:], 0, atol=0.02)
    np.testing.assert_allclose(ceiling[:3], explained[:3], atol=0.04)


def test_undefined_and_sparse() -> None:
    counts, rates, depth = drawn(50)
    counts[:, 1] = 0
    rates[3, 2] = np.nan
    for form in (sparse.csr_matrix, sparse.csc_array):
        found = metrics.deviance_explained(form(counts), rates, depth)
        assert np.isnan(found).tolist() == [False, True, True, False, False, False]
        np.testing.assert_allclose(found, metrics.deviance_explained(counts, rates, depth))
        assert np.isnan(metrics.deviance_ceiling(form(counts), depth)).tolist() == [False, True, *[False] * 4]
    with pytest.raises(ValueError, match=r"expected rates of shape \(50, 6\)"):
        metrics.deviance_explained(counts, rates[:, 1:], depth)
    with pytest.raises(ValueError, match="finite depth"):
        metrics.deviance_explained(counts, rates, depth[1:])


def test_the_ceiling_of_residuals() -> None:
    found = []
    for seed in range(4):
        counts, rates, depth = drawn(2000, seed)
        residuals = metrics.pearson_residuals(counts, depth, clip=np.inf)
        expected = metrics.pearson_residuals(depth[:, None] * rates, depth, clip=np.inf)
        found.append((metrics.residual_ceiling(counts, depth), metrics.pearson(residuals, expected)))
    ceiling, reached = (np.mean(values, axis=0) for values in zip(*found, strict=True))
    np.testing.assert_allclose(ceiling[:3], reached[:3], atol=0.05)
    assert np.abs(ceiling[3:]).max() < 0.15
    counts[2:, 0] = 0
    assert np.isnan(metrics.residual_ceiling(sparse.csr_matrix(counts), depth)).tolist() == [True, *[False] * 5]
    assert np.isnan(metrics.residual_ceiling(counts[:2], depth[:2])).all()
