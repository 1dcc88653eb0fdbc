from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stpredict as stp

VALUES = np.random.default_rng(0).normal(size=(13, 21, 3))


def test_places_rows_and_layers() -> None:
    dense = stp.pp.DenseMap(VALUES, 8, 0.5, origin=(100, 50), names=["a", "b", "c"], std=np.abs(VALUES))
    assert dense.side_px == 16
    assert dense.places(np.array([[100, 50], [131.9, 66], [99, 50]])).tolist() == [[0, 0], [1, 1], [0, -1]]
    assert np.allclose(dense.rows(2, 4), VALUES[2:4], atol=1e-6)
    assert np.allclose(dense.layer("b"), VALUES[..., 1], atol=1e-6)
    assert np.allclose(dense.layer("b", True, (slice(1, 3), slice(0, 5))), np.abs(VALUES[1:3, :5, 1]), atol=1e-6)
    with pytest.raises(KeyError, match="found 'd'"):
        dense.layer("d")


def test_coarser_places_are_means() -> None:
    dense = stp.pp.DenseMap(VALUES, 8, 0.5, names=["a", "b", "c"], reach_um=8).coarser(2)
    assert (dense.shape, dense.microns, dense.side_px, dense.reach_um) == ((6, 10, 3), 16, 32, 16)
    assert np.allclose(dense.rows(1, 3)[0, 4], VALUES[2:4, 8:10].mean(axis=(0, 1)), atol=1e-6)
    assert np.allclose(dense.layer("c"), dense.rows(0, 6)[..., 2])
    with pytest.raises(KeyError, match="standard deviations"):
        dense.layer("a", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": VALUES[0]}, r"\(rows, columns, k\); found shape \(21, 3\)"),
        ({"microns": 0}, "microns"),
        ({"microns_per_pixel": -1}, "microns_per_pixel"),
        ({"origin": (1, 2, 3)}, "origin as x and y"),
        ({"names": ["a"]}, "expected 3 names"),
        ({"names": ["a", "a", "b"]}, "names of a map"),
        ({"std": VALUES[:2]}, "standard deviations of shape"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stp.pp.DenseMap(**{"values": VALUES, "microns": 8, **options})


def test_the_size_of_a_pixel_has_to_be_known() -> None:
    with pytest.raises(ValueError, match="µm per pixel of a map"):
        stp.pp.DenseMap(VALUES, 8).places(np.zeros((1, 2)))
