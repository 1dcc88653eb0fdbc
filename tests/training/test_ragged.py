"""Rows of different lengths behind one index."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.training import Ragged


@pytest.fixture
def rows() -> Ragged:
    return Ragged(np.arange(14).reshape(7, 2), np.array([2, 0, 4, 1]))


@pytest.mark.parametrize("index", [[0], [1], [2, 0], [3, 1, 0, 2], [], [2, 2], slice(None)])
def test_an_index_takes_the_values_of_its_rows_in_order(rows: Ragged, index: object) -> None:
    parts = [rows.values[:2], rows.values[2:2], rows.values[2:6], rows.values[6:]]
    chosen = range(4)[index] if isinstance(index, slice) else index
    wanted = np.concatenate([parts[i] for i in chosen]) if len(chosen) else rows.values[:0]
    np.testing.assert_array_equal(rows[np.array(index, dtype=int) if isinstance(index, list) else index], wanted)


def test_some_rows_share_values_and_are_those_rows(rows: Ragged) -> None:
    some = rows.take(np.array([2, 0])).take(np.array([1]))
    np.testing.assert_array_equal(some[slice(None)], rows.values[:2])
    assert (len(some), some.shape) == (1, (1, 2))
    assert some.values is rows.values


def test_a_digest_is_of_the_rows_wherever_their_values_lie(rows: Ragged) -> None:
    order = np.array([2, 0, 3, 1])
    moved = Ragged(rows[order], rows.size[order]).take(np.argsort(order))
    assert moved.fingerprint() == rows.fingerprint()
    others = [
        rows.take(order),
        Ragged(rows.values + 1, rows.size),
        Ragged(rows.values, np.array([2, 1, 3, 1])),
        Ragged(rows.values.astype(np.float64), rows.size),
    ]
    assert len({rows.fingerprint(), *(each.fingerprint() for each in others)}) == 5


def test_rows_beyond_the_values_are_refused() -> None:
    with pytest.raises(ValueError, match="expected rows within 3 values; found one that ends at 4"):
        Ragged(np.zeros(3), np.array([2, 2]))
