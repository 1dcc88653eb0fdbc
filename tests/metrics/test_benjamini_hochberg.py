import numpy as np
import pytest

from stpredict.metrics import benjamini_hochberg


def test_matches_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).beta(0.5, 2, 400)
    np.testing.assert_allclose(benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1], rtol=1e-12)


def test_untested_genes_count():
    p = np.array([0.01, np.nan, 0.02, np.nan])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.04, 1, 0.04, 1])
    assert np.isnan(p).sum() == 2
    np.testing.assert_array_equal(benjamini_hochberg(np.full(3, np.nan)), np.ones(3))
    assert benjamini_hochberg([]).shape == (0,)


def test_errors():
    with pytest.raises(ValueError, match="between 0 and 1"):
        benjamini_hochberg([0.1, 1.1])
    with pytest.raises(ValueError, match="one family"):
        benjamini_hochberg([[0.1, 0.2]])
