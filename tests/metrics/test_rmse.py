import numpy as np
import pytest
from scipy import sparse
from scipy.stats import iqr
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, root_mean_squared_error

from stpredict.metrics import mae, mse, r2, rmse, rmse_iqr, variance_ratio


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    return rng.poisson(2.0, (50, 12)).astype(np.float32), rng.normal(size=(50, 12)).astype(np.float32)


def test_rmse_matches_sklearn(pair):
    expected = root_mean_squared_error(*pair, multioutput="raw_values")
    np.testing.assert_allclose(rmse(*pair), expected, rtol=1e-5)
    np.testing.assert_array_equal(rmse(sparse.csr_matrix(pair[0]), pair[1]), rmse(*pair))


def test_other_errors_match_sklearn(pair):
    truth, predicted = pair
    for ours, theirs in ((mse, mean_squared_error), (mae, mean_absolute_error), (r2, r2_score)):
        np.testing.assert_allclose(
            ours(truth, predicted), theirs(truth, predicted, multioutput="raw_values"), rtol=1e-5
        )


def test_r2_of_the_mean_is_0_and_of_a_constant_undefined():
    truth = np.array([[1.0, 3.0], [2.0, 3.0], [6.0, 3.0]])
    np.testing.assert_allclose(r2(truth, np.full((3, 2), 3.0)), [0, np.nan], atol=1e-12)
    assert np.isnan(r2(truth[:1], truth[:1])).all()


def test_rmse_iqr_matches_scipy(pair):
    expected = rmse(*pair) / (iqr(pair[0].astype(float), axis=0) + 1e-5)
    np.testing.assert_allclose(rmse_iqr(*pair), expected, rtol=1e-12)


def test_rmse_iqr_of_a_mostly_zero_gene_is_undefined():
    truth = np.zeros((20, 2))
    truth[0] = 1
    truth[:, 1] = np.arange(20)
    result = rmse_iqr(truth, np.zeros((20, 2)))
    assert np.isnan(result[0])
    assert np.isfinite(result[1])


def test_variance_ratio_matches_numpy(pair):
    truth, predicted = (values.astype(float) for values in pair)
    expected = predicted.var(axis=0) / truth.var(axis=0)
    np.testing.assert_allclose(variance_ratio(*pair), expected, rtol=1e-6)
    np.testing.assert_array_equal(variance_ratio(sparse.csr_matrix(pair[0]), pair[1]), variance_ratio(*pair))


def test_variance_ratio_constants(pair):
    truth, predicted = pair
    truth[:, 0] = 0.1
    predicted[:, 1] = 0.1
    found = variance_ratio(truth, predicted)
    assert np.isnan(found[0])
    assert found[1] == 0


@pytest.mark.parametrize("function", [rmse, rmse_iqr, variance_ratio])
def test_empty_and_errors(function, pair):
    assert np.isnan(function(np.ones((0, 3)), np.ones((0, 3)))).all()
    with pytest.raises(ValueError, match="one shape"):
        function(pair[0], pair[1][:3])
