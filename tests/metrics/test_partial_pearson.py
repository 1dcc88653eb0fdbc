"""Partial correlation given a covariate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pingouin
import pytest
from scipy import sparse

from stpredict.metrics import partial_pearson, pearson


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    depth = rng.normal(size=200)
    signal = rng.normal(size=(200, 4))
    truth = signal + depth[:, None] * [0, 1, 2, 3]
    return truth, 0.5 * signal + depth[:, None] + rng.normal(size=(200, 4)), depth


def test_matches_pingouin_with_linear_and_quadratic_covariates(data):
    truth, predicted, depth = data
    table = pd.DataFrame({"d1": depth, "d2": depth**2})
    expected = [
        pingouin.partial_corr(table.assign(x=truth[:, g], y=predicted[:, g]), "x", "y", covar=["d1", "d2"])["r"].iloc[0]
        for g in range(4)
    ]
    np.testing.assert_allclose(partial_pearson(truth, predicted, depth), expected, rtol=1e-4)


def test_several_covariates_match_pingouin(data):
    truth, predicted, depth = data
    density = np.random.default_rng(1).normal(size=200)
    truth, predicted = truth + density[:, None] * [2, 0, 0, 1], predicted - density[:, None]
    table = pd.DataFrame({"d1": depth, "d2": depth**2, "n1": density, "n2": density**2})
    expected = [
        pingouin.partial_corr(table.assign(x=truth[:, g], y=predicted[:, g]), "x", "y", covar=list(table))["r"].iloc[0]
        for g in range(4)
    ]
    both = np.column_stack([depth, density])
    np.testing.assert_allclose(partial_pearson(truth, predicted, both), expected, rtol=1e-4)
    # A covariate twice, or a constant one, takes nothing more away.
    more = np.column_stack([both, depth, np.ones(200)])
    np.testing.assert_allclose(partial_pearson(truth, predicted, more), expected, rtol=1e-4)
    np.testing.assert_allclose(
        partial_pearson(truth, predicted, depth[:, None]), partial_pearson(truth, predicted, depth)
    )


def test_prediction_of_nothing_but_the_covariate_is_undefined(data):
    truth, _, depth = data
    only_depth = np.repeat(depth[:, None] ** 2 - depth[:, None], 4, axis=1)
    assert np.isnan(partial_pearson(truth, only_depth, depth)).all()


def test_constant_covariate_changes_nothing(data):
    truth, predicted, _ = data
    np.testing.assert_allclose(partial_pearson(truth, predicted, np.ones(200)), pearson(truth, predicted), rtol=1e-10)


def test_sparse_equals_dense_and_constant_genes_are_undefined(data):
    truth, predicted, depth = data
    truth = np.where(truth > 0, truth, 0)
    truth[:, 0] = 3
    result = partial_pearson(truth, predicted, depth)
    assert np.isnan(result[0])
    assert np.isfinite(result[1:]).all()
    np.testing.assert_allclose(partial_pearson(sparse.csr_matrix(truth), predicted, depth), result)


def test_errors(data):
    truth, predicted, depth = data
    with pytest.raises(ValueError, match="finite covariate"):
        partial_pearson(truth, predicted, depth[:-1])
    with pytest.raises(ValueError, match="finite covariate"):
        partial_pearson(truth, predicted, np.full(200, np.nan))
    assert np.isnan(partial_pearson(truth[:3], predicted[:3], depth[:3])).all()
