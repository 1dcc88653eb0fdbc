"""Cells of a grid: rows of a table to a dense array and back, and the symmetries of the lattice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stpredict.core._validate import check_choice

LATTICES = ("hex", "square")
#: Both words are understood everywhere.
LATTICE_WORDS = {"hexagonal": "hex"}
Shape = tuple[int, int]

# In steps along a row and along the edge that leads down (square) or down to the right (hexagonal).
_MIRROR = {"square": ((-1, 0), (0, 1)), "hex": ((-1, -1), (0, 1))}
_TURN = {"square": ((0, -1), (1, 0)), "hex": ((0, -1), (1, 1))}
_TURNS = {"square": 4, "hex": 6}


def scatter(values: np.ndarray, cell: np.ndarray, shape: Shape, fill: float = np.nan) -> np.ndarray:
    """Put rows of values (n, k) on their cells (n, 2) of a grid: float32 (n_rows, n_cols, k), `fill` elsewhere."""
    grid = np.full((*shape, values.shape[1]), fill, dtype=np.float32)
    grid[cell[:, 0], cell[:, 1]] = values
    return grid


def gather(grid: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Take the values (n, ...) of cells (n, 2) from a grid (n_rows, n_cols, ...)."""
    return grid[cell[:, 0], cell[:, 1]]


def symmetries(lattice: str) -> tuple[Symmetry, ...]:
    """Return the turns and mirror images that map a lattice onto itself, the identity first.

    Neighbors stay neighbors: 8 of a square lattice, 12 of a hexagonal one. The first four keep rows as rows, so that
    the grid keeps its shape or grows by one row or column; the others exchange rows and columns, or lay a hexagonal
    section askew into a larger grid.

    Parameters
    ----------
    lattice
        `"hex"` or `"square"`, as in `uns["stpredict"]["grid"]["lattice"]`.

    Examples
    --------
    >>> import numpy as np
    >>> identity, half_turn, *_ = symmetries("square")
    >>> half_turn(np.array([[0, 0], [1, 2]]), (2, 3))
    (array([[1, 2],
           [0, 0]]), (2, 3))
    """
    check_choice(lattice, LATTICES, "lattice")
    found = [Symmetry(lattice, turns, mirrored) for mirrored in (False, True) for turns in range(_TURNS[lattice])]
    return tuple(sorted(found, key=lambda symmetry: not symmetry.keeps_rows))


@dataclass(frozen=True)
class Symmetry:
    """A turn or a mirror image of a lattice, as a map of cells to cells.

    On a hexagonal lattice the odd rows of the grid lie half a step to the right of the even ones, before and after:
    where a mirror image would put the even rows to the right, it is shifted by a row.

    Attributes
    ----------
    lattice
        `"hex"` or `"square"`.
    turns
        Quarters of a turn on a square lattice, sixths on a hexagonal one, from the row downwards.
    mirrored
        Whether left and right are exchanged before the turn.
    """

    lattice: str
    turns: int
    mirrored: bool

    @property
    def keeps_rows(self) -> bool:
        """Whether rows stay rows."""
        return self._matrix[1][0] == 0

    @property
    def _matrix(self) -> list[list[int]]:
        matrix = np.linalg.matrix_power(np.array(_TURN[self.lattice]), self.turns)
        return (matrix @ np.array(_MIRROR[self.lattice]) if self.mirrored else matrix).tolist()

    def __call__(self, cell: Any, shape: Shape) -> tuple[Any, Shape]:
        """Move cells.

        Parameters
        ----------
        cell
            (n, 2) row and column, signed whole numbers, as an array or a tensor.
        shape
            Rows and columns of the grid.

        Returns
        -------
        The cells in the same order (n, 2), and the shape of a grid that holds them. What happens to a cell depends on
        `shape` alone and not on which other cells there are.
        """
        n_rows, n_cols = (int(size) for size in shape)
        rows = sorted({0, min(1, n_rows - 1), max(0, n_rows - 2), n_rows - 1})
        corners = np.array([[row, col] for row in rows for col in (0, n_cols - 1)])
        along, down = self._moved(corners)
        # Either parity may come to lie in the first row; a mirror image fits the same columns with one of them only.
        top = int(down.min())
        options = [self._extent(along, down, first) for first in ((top, top - 1) if self.lattice == "hex" else (top,))]
        first_row, first_col, moved = min(options, key=lambda option: option[2][0] * option[2][1])
        along, down = self._moved(cell)
        out = cell + 0
        out[:, 0], out[:, 1] = down - first_row, self._col(along, down - first_row) - first_col
        return out, moved

    def _moved(self, cell: Any) -> tuple[Any, Any]:
        """Steps along a row and down (n,), from the first cell of the grid."""
        row, col = cell[:, 0], cell[:, 1]
        along = col - row // 2 if self.lattice == "hex" else col
        (a, b), (c, d) = self._matrix
        return a * along + b * row, c * along + d * row

    def _col(self, along: Any, row: Any) -> Any:
        return along + row // 2 if self.lattice == "hex" else along

    def _extent(self, along: np.ndarray, down: np.ndarray, first_row: int) -> tuple[int, int, Shape]:
        """First row and column, and shape, of a grid whose row 0 is at `first_row`."""
        row = down - first_row
        col = self._col(along, row)
        return first_row, int(col.min()), (int(row.max()) + 1, int(np.ptp(col)) + 1)
