"""When two ways of making features are the same."""

from __future__ import annotations

import pytest

from stpredict.slots._made import differing, same_size

RECORD = {"encoder": "uni", "dim": 8, "tile_um": 128.0, "context": [1.0]}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (128.0, 127.744, True),
        (128.0, 128.0 * 1.019, True),
        (128.0, 128.0 * 1.021, False),
        (100, 102, True),
        (112.0, 128.0, False),
        (None, None, True),
        (None, 128.0, False),
    ],
)
def test_sizes_are_compared_in_both_directions(first, second, same) -> None:
    assert same_size(first, second) is same
    assert same_size(second, first) is same


def test_only_lengths_may_differ_by_rounding() -> None:
    assert differing(RECORD, RECORD | {"tile_um": 127.744}) == []
    assert differing(RECORD, RECORD | {"tile_um": 125.0}) == ["tile_um"]
    assert differing(RECORD, RECORD | {"dim": 8.1}, ["dim"]) == ["dim"]
    assert differing(RECORD, RECORD | {"context": [1.01]}) == ["context"]
    assert differing(RECORD, {"encoder": "uni"}, ["encoder", "tile_um"]) == ["tile_um"]
