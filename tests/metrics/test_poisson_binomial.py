from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, poisson_binom

from stpredict.metrics._poisson_binomial import poisson_binomial_tail


def test_equals_scipy_row_by_row() -> None:
    rng = np.random.default_rng(0)
    p, tested = rng.random(9), rng.random((30, 9)) < 0.7
    found = poisson_binomial_tail(p, tested)
    for row, here in zip(found, tested, strict=True):
        np.testing.assert_allclose(row, poisson_binom.sf(np.arange(10) - 1, p * here), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(poisson_binomial_tail(p, tested, 3), found[:, :4], rtol=1e-12)


def test_small_tails_keep_their_digits() -> None:
    found = poisson_binomial_tail(np.full(40, 1e-3), np.ones((1, 40), dtype=bool))[0]
    np.testing.assert_allclose(found, binom.sf(np.arange(41) - 1, 40, 1e-3), rtol=1e-9)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_events(p: float) -> None:
    found = poisson_binomial_tail(np.full(3, p), np.array([[True, True, False]]))
    assert found.tolist() == [[1, p, p, 0]]
