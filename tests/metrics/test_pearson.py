import numpy as np
import pytest
from scipy import sparse, stats

from stpredict.metrics import _pairs, pearson, pearson_p


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = rng.poisson(1.0, (40, 30)).astype(float)
    return truth, truth * 0.3 + rng.normal(size=truth.shape) + 7


def test_matches_scipy(pair):
    truth, predicted = pair
    expected = [stats.pearsonr(truth[:, g], predicted[:, g]).statistic for g in range(truth.shape[1])]
    np.testing.assert_allclose(pearson(truth, predicted), expected, rtol=1e-12)


def test_blocks_do_not_change_the_result(pair, monkeypatch):
    whole = pearson(*pair)
    monkeypatch.setattr(_pairs, "_BLOCK", 100)
    assert len(list(_pairs.gene_blocks((40, 30)))) == 15
    np.testing.assert_array_equal(pearson(*pair), whole)


@pytest.mark.parametrize("convert", [sparse.csr_matrix, sparse.csc_array])
def test_sparse_equals_dense(pair, convert):
    truth, predicted = pair
    np.testing.assert_array_equal(pearson(convert(truth), predicted), pearson(truth, predicted))


def test_float32_is_computed_in_float64():
    rng = np.random.default_rng(1)
    truth = (rng.normal(size=(500, 3)) + 1e3).astype(np.float32)
    predicted = (truth + rng.normal(size=truth.shape)).astype(np.float32)
    expected = pearson(truth.astype(float), predicted.astype(float))
    np.testing.assert_allclose(pearson(truth, predicted), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_up_to_rounding_is_undefined(dtype):
    truth = np.arange(50, dtype=dtype)[:, None]
    level = dtype(0.1234567)
    jitter = np.where(np.arange(50) % 2, level, np.nextafter(level, dtype(1)))[:, None].astype(dtype)
    assert len(np.unique(jitter)) == 2
    assert np.isnan(pearson(truth, jitter))[0]
    assert np.isnan(pearson(jitter, truth))[0]


def test_small_real_variation_is_kept():
    truth = np.arange(50.0)[:, None]
    np.testing.assert_allclose(pearson(truth, 1 + 1e-9 * truth), [1.0], rtol=1e-4)
    np.testing.assert_allclose(pearson(truth, 1e-12 * truth), [1.0])


def test_undefined_genes_do_not_touch_their_neighbors(pair):
    truth, predicted = (values.copy() for values in pair)
    expected = pearson(truth, predicted)
    truth[:, 3] = 2.0
    predicted[5, 7] = np.nan
    found = pearson(truth, predicted)
    assert np.isnan(found[[3, 7]]).all()
    others = np.setdiff1d(np.arange(30), [3, 7])
    np.testing.assert_allclose(found[others], expected[others], rtol=1e-12)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_observations(n):
    assert np.isnan(pearson(np.ones((n, 2)), np.ones((n, 2)))).all()


def test_inputs_stay_as_they_are(pair):
    before = [values.copy() for values in pair]
    pearson(*pair)
    for values, old in zip(pair, before, strict=True):
        np.testing.assert_array_equal(values, old)


def test_errors(pair):
    truth, predicted = pair
    with pytest.raises(ValueError, match="one shape"):
        pearson(truth, predicted[:, :5])
    with pytest.raises(ValueError, match="n_obs, n_genes"):
        pearson(truth[:, 0], predicted[:, 0])
    with pytest.raises(TypeError, match="real numbers"):
        pearson(truth.astype(str), predicted)


def test_p_values_match_scipy(pair):
    truth, predicted = pair
    expected = [stats.pearsonr(truth[:, g], predicted[:, g]).pvalue for g in range(truth.shape[1])]
    np.testing.assert_allclose(pearson_p(pearson(truth, predicted), len(truth)), expected, rtol=1e-9)


def test_p_value_borders():
    np.testing.assert_array_equal(pearson_p(np.array([1.0, -1.0, 0.0]), 10), [0.0, 0.0, 1.0])
    assert np.isnan(pearson_p(np.array([0.5, np.nan]), np.array([2, 10]))).all()
