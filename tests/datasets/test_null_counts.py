from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.datasets import _null_counts


@pytest.fixture
def counts() -> np.ndarray:
    """Two sections of 60 observations and 5 genes, each gene rising or falling over the section; one gene is never seen."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0.2, 3, 60)[:, None]
    rates = np.hstack([10 * slope, 30 / slope, np.full((60, 1), 40.0), np.zeros((60, 1)), 5 * slope])
    return rng.poisson(np.vstack([rates, rates[::-1] * [3, 1, 1, 1, 1]])).astype(np.float32)


SECTION = np.repeat(["a", "b"], 60)


def test_depths_stay_and_proportions_are_constant(counts: np.ndarray) -> None:
    drawn = stp.datasets.null_counts(counts, SECTION, 0)
    depth = counts.sum(axis=1)
    np.testing.assert_array_equal(drawn.sum(axis=1), depth)
    assert drawn.dtype == counts.dtype
    assert not drawn[:, 3].any()
    for name in "ab":
        rows = name == SECTION
        share = counts[rows].sum(axis=0) / counts[rows].sum()
        assert np.abs(drawn[rows].sum(axis=0) / drawn[rows].sum() - share).max() < 0.02
        seen = share > 0
        expected = depth[rows, None] * share[seen]
        spread = (drawn[rows][:, seen] - expected) / np.sqrt(expected * (1 - share[seen]))
        assert 0.8 < spread.var() < 1.2  # as counting alone makes it
        gradient = np.arange(60) * (1 if name == "a" else -1)
        assert abs(np.corrcoef(drawn[rows, 0] / depth[rows], gradient)[0, 1]) < 0.35
        assert np.corrcoef(counts[rows, 0] / depth[rows], gradient)[0, 1] > 0.8


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array])
def test_sparse_equals_dense(counts: np.ndarray, form: type) -> None:
    drawn = stp.datasets.null_counts(form(counts), SECTION, 3)
    assert sparse.issparse(drawn)
    assert isinstance(drawn, sparse.sparray) == issubclass(form, sparse.sparray)
    np.testing.assert_array_equal(drawn.toarray(), stp.datasets.null_counts(counts, SECTION, 3))


def test_drawn_in_parts_and_in_any_order(counts: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_null_counts, "_DRAWS", 50)
    order = np.random.default_rng(1).permutation(len(counts))
    drawn = stp.datasets.null_counts(counts[order], SECTION[order], 0)
    np.testing.assert_array_equal(drawn.sum(axis=1), counts[order].sum(axis=1))
    assert not np.array_equal(drawn, stp.datasets.null_counts(counts[order], SECTION[order], 1))


def test_empty_observations_and_errors(counts: np.ndarray) -> None:
    counts[:60] = 0
    drawn = stp.datasets.null_counts(counts, SECTION, 0)
    assert not drawn[:60].any()
    assert drawn[60:].any()
    with pytest.raises(ValueError, match="one section for each of 120"):
        stp.datasets.null_counts(counts, SECTION[1:])
    with pytest.raises(ValueError, match="whole"):
        stp.datasets.null_counts(counts + 0.5, SECTION)
