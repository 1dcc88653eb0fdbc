from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from stpredict.metrics import pearson, pearson_with_background


def padded(values: np.ndarray, n: int) -> np.ndarray:
    return np.vstack([values, np.zeros((n, values.shape[1]))])


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.gamma(4, 1, (300, 7))
    return truth, 0.3 * truth + rng.normal(0, 1, truth.shape)


@pytest.mark.parametrize("n_background", [0, 1, 40, 5000])
def test_equals_numpy_on_the_padded_map(pair, n_background: int) -> None:
    truth, predicted = pair
    whole = [padded(values, n_background) for values in pair]
    expected = [np.corrcoef(whole[0][:, g], whole[1][:, g])[0, 1] for g in range(7)]
    np.testing.assert_allclose(pearson_with_background(truth, predicted, n_background), expected, rtol=1e-12)
    np.testing.assert_allclose(
        pearson_with_background(sparse.csr_matrix(truth), predicted, n_background), expected, rtol=1e-12
    )


def test_is_the_usual_correlation_without_background(pair) -> None:
    np.testing.assert_array_equal(pearson_with_background(*pair, 0), pearson(*pair))


@pytest.mark.parametrize(("m", "s", "p"), [(4.5, 0.7, 0.6), (0.5, 1.0, 0.3), (3.0, 0.2, 0.95)])
def test_a_mask_is_worth_what_the_formula_says(m: float, s: float, p: float) -> None:
    n = 600
    truth = np.random.default_rng(0).normal(size=(n, 1))
    truth = m + s * (truth - truth.mean()) / truth.std()
    mask = np.full((n, 1), 2.5)
    share = (1 - p) * m**2
    r = pearson_with_background(truth, mask, round(n / p - n))
    np.testing.assert_allclose(r, np.sqrt(share / (share + s**2)), rtol=2e-3)
    assert np.isnan(pearson(truth, mask)).all()
    if (m, s) == (4.5, 0.7):
        assert r[0] > 0.96


def test_undefined_values() -> None:
    one = np.ones((4, 1))
    assert np.isnan(pearson_with_background(one, one, 0)).all()
    assert pearson_with_background(one, one, 3) == pytest.approx(1)
    assert pearson_with_background(one, -one, 3) == pytest.approx(-1)
    assert np.isnan(pearson_with_background(one, 0 * one, 3)).all()
    assert np.isnan(pearson_with_background(one, np.array([[1.0], [2], [np.nan], [1]]), 3)).all()
    assert np.isnan(pearson_with_background(np.ones((0, 2)), np.ones((0, 2)), 3)).all()


def test_small_variation_on_a_large_mean() -> None:
    rng = np.random.default_rng(0)
    truth = 1e6 + rng.normal(size=(500, 1))
    predicted = truth + rng.normal(size=(500, 1))
    np.testing.assert_allclose(pearson_with_background(truth, predicted, 0), pearson(truth, predicted))
    assert pearson_with_background(truth, predicted, 10) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("n_background", [-1, 2.5])
def test_errors(pair, n_background: float) -> None:
    with pytest.raises(ValueError, match="cells without tissue"):
        pearson_with_background(*pair, n_background)
    with pytest.raises(ValueError, match="one shape"):
        pearson_with_background(pair[0], pair[1][:, :2], 3)
