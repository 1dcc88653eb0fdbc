"""Disks on a grid: how many places they have, where they lie, and what is left of them at a border."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.core._disks import disk_offsets, disk_operator, place_of


@pytest.mark.parametrize(("diameter", "n"), [(55.0, 37), (100.0, 121), (8.0, 1)])
def test_places_of_a_disk(diameter: float, n: int) -> None:
    """Spots of Visium and of the older arrays on places of 8 µm; a spot of the size of a place is that place."""
    assert len(disk_offsets(diameter / 2 / 8)) == n


def test_positions_are_rounded_down() -> None:
    """A place holds what lies from its left and upper edge on: rounding would shift disks by half a place."""
    xy = np.array([[0.0, 0.0], [15.9, 16.0], [16.0, 31.9], [-0.1, 5.0]])
    assert place_of(xy, (0, 0), 16).tolist() == [[0, 0], [1, 0], [1, 1], [0, -1]]
    assert place_of(xy + [100, 7], (100, 7), 16).tolist() == place_of(xy, (0, 0), 16).tolist()
    # Over all offsets within a place, the center of the place lies on average where the spot does.
    offsets = np.linspace(0, 16, 1000, endpoint=False)
    center = (place_of(np.column_stack([offsets, offsets]) + 160, (0, 0), 16)[:, 1] + 0.5) * 16
    assert abs(float(np.mean(center - 160 - offsets))) < 0.02


def test_rows_sum_to_one_at_the_border() -> None:
    place = np.array([[0, 0], [0, 7], [5, 5], [11, 19], [-9, 0]])
    operator = disk_operator(place, 3.4375, (12, 20))
    assert operator.shape == (5, 240)
    assert np.allclose(operator.sum(axis=1), [1, 1, 1, 1, 0], atol=1e-12)
    size = np.diff(operator.tocsr().indptr)
    assert size[2] == 37
    assert 0 < size[0] < 37
    assert size[4] == 0
    rows, columns = np.divmod(operator.tocsr()[[0]].indices, 20)
    assert (rows**2 + columns**2 <= 3.4375**2).all()
