from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.core._cells import gather, scatter, symmetries

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def plane(cell: np.ndarray, lattice: str) -> np.ndarray:
    """Places (n, 2) of cells, in steps: the odd rows of a hexagonal lattice lie half a step to the right."""
    row, col = cell.T.astype(float)
    return (
        np.column_stack([col + (row % 2) / 2, row * np.sqrt(3) / 2])
        if lattice == "hex"
        else np.column_stack([col, row])
    )


def cells_of(shape: tuple[int, int]) -> np.ndarray:
    return np.argwhere(np.ones(shape, dtype=bool))


@pytest.mark.parametrize("lattice", ["hex", "square"])
@given(shape=shapes)
@settings(deadline=None, max_examples=40)
def test_symmetries_move_the_lattice_as_a_whole(lattice: str, shape: tuple[int, int]) -> None:
    cell = cells_of(shape)
    before = plane(cell, lattice)
    distance = np.linalg.norm(before[:, None] - before[None], axis=2)
    for symmetry in symmetries(lattice):
        moved, size = symmetry(cell, shape)
        after = plane(moved, lattice)
        np.testing.assert_allclose(np.linalg.norm(after[:, None] - after[None], axis=2), distance, atol=1e-9)
        assert moved.min() >= 0
        assert (moved.max(axis=0) + 1 == size).all()
        if symmetry.keeps_rows:
            assert size[0] <= shape[0] + 1
            assert size[1] <= shape[1] + 1
        part, same = symmetry(cell[::3], shape)
        np.testing.assert_array_equal(part, moved[::3])
        assert same == size


@pytest.mark.parametrize(("lattice", "n"), [("hex", 12), ("square", 8)])
def test_symmetries_are_all_there_are(lattice: str, n: int) -> None:
    cell = cells_of((5, 4))[[0, 1, 2, 5, 9, 14]]
    found = set()
    for symmetry in symmetries(lattice):
        moved = plane(symmetry(cell, (5, 4))[0], lattice)
        found.add(tuple(np.round(moved - moved[0], 6).ravel()))
    assert len(found) == len(symmetries(lattice)) == n
    np.testing.assert_array_equal(symmetries(lattice)[0](cell, (5, 4))[0], cell)
    assert [symmetry.keeps_rows for symmetry in symmetries(lattice)] == [True] * 4 + [False] * (n - 4)


def test_a_visium_section_keeps_its_columns() -> None:
    assert [symmetry((cells_of((78, 64))), (78, 64))[1] for symmetry in symmetries("hex")[:4]] == [
        (78, 64), (78, 64), (79, 64), (79, 64),
    ]  # fmt: skip


def test_tensors_move_as_arrays_do() -> None:
    cell = cells_of((5, 3))
    for lattice in ("hex", "square"):
        for symmetry in symmetries(lattice):
            moved, size = symmetry(torch.from_numpy(cell), (5, 3))
            assert moved.dtype == torch.int64
            assert size == symmetry(cell, (5, 3))[1]
            np.testing.assert_array_equal(moved.numpy(), symmetry(cell, (5, 3))[0])
    np.testing.assert_array_equal(cell, cells_of((5, 3)))


def test_unknown_lattice() -> None:
    with pytest.raises(ValueError, match="'hex', 'square'; found 'triangle'"):
        symmetries("triangle")


def test_scatter_and_gather_are_inverse() -> None:
    cell = cells_of((4, 5))[::2]
    values = np.random.default_rng(0).random((len(cell), 3), dtype=np.float32)
    grid = scatter(values, cell, (4, 5))
    assert np.isnan(grid).any(axis=2).sum() == 20 - len(cell)
    np.testing.assert_array_equal(gather(grid, cell), values)
