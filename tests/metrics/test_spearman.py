import numpy as np
import pytest
from scipy import sparse, stats

from stpredict.metrics import spearman


def test_matches_scipy_with_ties():
    rng = np.random.default_rng(0)
    truth = rng.poisson(1.0, (60, 20)).astype(float)
    predicted = np.round(truth + rng.normal(size=truth.shape), 1)
    expected = [stats.spearmanr(truth[:, g], predicted[:, g]).statistic for g in range(20)]
    np.testing.assert_allclose(spearman(truth, predicted), expected, rtol=1e-12)
    np.testing.assert_array_equal(spearman(sparse.csr_matrix(truth), predicted), spearman(truth, predicted))


def test_rounding_noise_is_no_signal():
    truth = np.arange(50, dtype=np.float32)[:, None]
    level = np.float32(0.3)
    noise = np.where(truth > 25, np.nextafter(level, np.float32(1)), level)
    assert np.isnan(spearman(truth, noise))[0]


def test_undefined_and_errors():
    values = np.arange(6.0).reshape(3, 2)
    assert np.isnan(spearman(values[:1], values[:1])).all()
    holes = values.copy()
    holes[0, 0] = np.nan
    np.testing.assert_array_equal(np.isnan(spearman(values, holes)), [True, False])
    with pytest.raises(ValueError, match="one shape"):
        spearman(values, values[:2])
