from __future__ import annotations

import numpy as np
import pytest

from stpredict.pp._spatial_graph import spatial_weights


def test_matches_brute_force() -> None:
    xy = np.random.default_rng(0).random((60, 2))
    weights = spatial_weights(xy, 7).toarray()
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    expected = np.zeros((60, 60))
    np.put_along_axis(expected, np.argsort(distance, axis=1)[:, :7], 1.0, axis=1)
    np.testing.assert_array_equal(weights, expected)
    assert not np.array_equal(weights, weights.T)


def test_neighbors_are_capped() -> None:
    weights = spatial_weights(np.random.default_rng(0).random((4, 2)), 15).toarray()
    np.testing.assert_array_equal(weights, 1 - np.eye(4))


def test_coinciding_positions_have_no_self_weight() -> None:
    weights = spatial_weights(np.zeros((30, 2)), 5)
    assert (weights.diagonal() == 0).all()
    assert (np.diff(weights.indptr) == 5).all()
    assert weights.max() == 1


@pytest.mark.parametrize("xy", [np.zeros((3, 3)), np.full((4, 2), np.nan), np.zeros((1, 2))])
def test_errors(xy: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        spatial_weights(xy)
