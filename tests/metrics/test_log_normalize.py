from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from stpredict.metrics._log_normalize import log_normalize


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix])
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_formula(form, dtype) -> None:
    counts = np.random.default_rng(0).poisson(1.0, (9, 5))
    counts[4] = 0
    totals = counts.sum(axis=1)
    given = form(counts.astype(dtype))
    result = log_normalize(given, totals, 50)
    assert sparse.issparse(result) == sparse.issparse(given)
    assert result.dtype == (np.float32 if dtype == np.float32 else np.float64)
    dense = result.toarray() if sparse.issparse(result) else result
    np.testing.assert_allclose(dense, np.log1p(counts / np.maximum(totals, 1)[:, None] * 50), rtol=1e-6)
    unchanged = given.toarray() if sparse.issparse(given) else given
    np.testing.assert_array_equal(unchanged, counts)


def test_totals_of_another_length() -> None:
    with pytest.raises(ValueError, match="one total"):
        log_normalize(np.ones((3, 2)), np.ones(2))
