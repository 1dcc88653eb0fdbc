"""Windows that slide over the lattice of a slide's tiles, and the mean over the windows that cover each tile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_MAX_CELLS = 2**28  # of the bounding grid; more means positions that are no lattice
_BLOCK = 2**22  # values of a block of columns: 16 MB


@dataclass(frozen=True)
class Windows:
    """Square windows on the lattice of one slide.

    Every tile is covered. Where windows with enough tiles cover a tile, its value is the mean over these; a tile that
    none of them covers takes the mean over `partial` windows.

    Attributes
    ----------
    size
        Side of a window in tiles.
    grid
        Number of the tile at each place of the bounding grid (n_rows, n_columns), -1 where there is none. At least
        `size` wide in both directions.
    origins
        Row and column of each window's first place in the grid (n_windows, 2).
    partial
        Whether a window holds fewer tiles than asked for (n_windows,).
    n_windows
        Number of windows behind the value of each tile (n_tiles,).
    partial_tiles
        Whether only partial windows cover a tile (n_tiles,).
    """

    size: int
    grid: np.ndarray
    origins: np.ndarray
    partial: np.ndarray
    n_windows: np.ndarray
    partial_tiles: np.ndarray

    def __len__(self) -> int:
        return len(self.origins)

    def index(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Numbers of the tiles in some windows (b, size * size), row by row; -1 where there is no tile."""
        views = np.lib.stride_tricks.sliding_window_view(self.grid, (self.size, self.size))
        row, col = self.origins[start:stop].T
        return views[row, col].reshape(len(row), self.size**2)

    @cached_property
    def _weights(self) -> Any:
        """Share of each window in each tile, a sparse matrix (n_tiles, n_windows)."""
        from scipy import sparse

        index = self.index()
        held = (index >= 0) & (self.partial_tiles[index] == self.partial[:, None])
        window, _ = np.nonzero(held)
        tile = index[held]
        share = (1 / self.n_windows[tile]).astype(np.float32)
        return sparse.csr_matrix((share, (tile, window)), shape=(len(self.n_windows), len(self)))

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over the windows of each tile.

        Parameters
        ----------
        values
            (n_windows, p).

        Returns
        -------
        (n_tiles, p) float32.
        """
        result = np.empty((len(self.n_windows), values.shape[1]), dtype=np.float32)
        width = max(1, _BLOCK // max(1, len(values)))
        for start in range(0, values.shape[1], width):
            result[:, start : start + width] = self._weights @ values[:, start : start + width]
        return result


def lay_windows(
    row: np.ndarray, col: np.ndarray, *, window: int = 10, stride: int = 1, min_tiles: int | None = None
) -> Windows:
    """Lay windows over the tiles of one slide so that every tile is covered.

    Windows start at every `stride`-th place of the bounding grid and at its last place, and are kept where they hold at
    least `min_tiles` tiles. A tile that none of them covers adds the window, at any place of the grid, that holds it
    and the most tiles, and among equals the one with the tile nearest to its center; those that hold fewer than
    `min_tiles` are `partial`.

    Parameters
    ----------
    row, col
        Position of each tile on the lattice (n_tiles,), whole numbers.
    window
        Side of a window in tiles.
    stride
        Step between windows in tiles, at most `window`.
    min_tiles
        Tiles that a window needs; more than half of its places when `None`.

    Raises
    ------
    ValueError
        When positions are no whole numbers or shared by tiles, or an option is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> row, col = np.mgrid[:12, :11].reshape(2, -1)
    >>> windows = lay_windows(row, col)
    >>> len(windows), windows.n_windows.min(), windows.n_windows.max(), windows.partial.any()
    (6, np.int64(1), np.int64(6), np.False_)
    """
    size, stride = _whole(window, "window"), _whole(stride, "stride")
    if stride > size:
        raise ValueError(f"expected a stride of at most the window's {size} tiles; found {stride}")
    needed = size**2 // 2 + 1 if min_tiles is None else _whole(min_tiles, "min_tiles")
    if needed > size**2:
        raise ValueError(f"expected min_tiles of at most {size**2}, the places of a window; found {needed}")
    row, col = _lattice(row, col)
    if not len(row):
        raise ValueError("expected at least one tile; found none")
    shape = max(int(row.max()) + 1, size), max(int(col.max()) + 1, size)
    if shape[0] * shape[1] > _MAX_CELLS:
        raise ValueError(
            f"expected tiles on one lattice; found {len(row)} tiles on a grid of {shape[0]} x {shape[1]}; give the "
            "positions on the lattice (array_row, array_col), not pixels"
        )
    grid = np.full(shape, -1, dtype=np.int32)
    grid[row, col] = np.arange(len(row))
    if (grid >= 0).sum() != len(row):
        raise ValueError(
            f"expected one tile at each place of the lattice; found {len(row)} tiles at {(grid >= 0).sum()} places; "
            "map each slide on its own"
        )

    held = box_sums(grid >= 0, size)
    regular = np.zeros(held.shape, dtype=bool)
    first = [np.union1d(np.arange(0, n, stride), [n - 1]) for n in held.shape]
    regular[np.ix_(*first)] = True
    accepted = regular & (held >= needed)
    covered = box_sums(np.pad(accepted, size - 1), size)[row, col] > 0
    added = _best_windows(held, row[~covered], col[~covered], size)
    accepted |= added & (held >= needed)  # what a stride above 1 stepped over
    few = added & (held < needed)
    n_windows = box_sums(np.pad(accepted, size - 1), size)[row, col]
    bare = n_windows == 0
    n_windows[bare] = box_sums(np.pad(few, size - 1), size)[row[bare], col[bare]]
    origins = [np.argwhere(accepted), np.argwhere(few)]
    partial = np.repeat([False, True], [len(part) for part in origins])
    return Windows(size, grid, np.concatenate(origins), partial, n_windows, bare)


def _best_windows(held: np.ndarray, row: np.ndarray, col: np.ndarray, size: int) -> np.ndarray:
    """Mask of the origins whose windows hold some tiles with the most others, the most central among equals."""
    chosen = np.zeros(held.shape, dtype=bool)
    if not len(row):
        return chosen
    around = np.lib.stride_tricks.sliding_window_view(np.pad(held, size - 1, constant_values=-1), (size, size))
    off_center = (2 * np.arange(size) - (size - 1)) ** 2
    score = around[row, col] * 4 * size**2 - (off_center[:, None] + off_center)
    best = np.unravel_index(score.reshape(len(row), -1).argmax(axis=1), (size, size))
    chosen[row - (size - 1) + best[0], col - (size - 1) + best[1]] = True
    return chosen


def box_sums(values: np.ndarray, size: int) -> np.ndarray:
    """Sums over all boxes of `size` x `size` places inside a grid (n_rows, n_columns), as whole numbers."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1), dtype=np.int64)
    np.cumsum(np.cumsum(values, axis=0, dtype=np.int64), axis=1, out=sums[1:, 1:])
    return sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]


def neighborhoods(row: np.ndarray, col: np.ndarray, size: int) -> np.ndarray:
    """Numbers of the tiles in the box of `size` x `size` places around each tile (n_tiles, size²), -1 for none.

    `size` is odd.
    """
    row, col = _lattice(row, col)
    grid = np.full((row.max(initial=0) + size, col.max(initial=0) + size), -1, dtype=np.int64)
    grid[row + size // 2, col + size // 2] = np.arange(len(row))
    return np.lib.stride_tricks.sliding_window_view(grid, (size, size))[row, col].reshape(len(row), -1)


def _lattice(row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions from 0 as whole numbers."""
    place = np.stack([np.asarray(row), np.asarray(col)])
    if place.ndim != 2 or place.dtype.kind not in "fiu":
        raise ValueError(
            f"expected rows and columns of shape (n_tiles,); found {place.dtype} of shape {place.shape[1:]}"
        )
    if place.dtype.kind == "f" and not (np.isfinite(place).all() and (place == np.round(place)).all()):
        raise ValueError("expected whole numbers as positions on the lattice; found fractions or missing values")
    place = place.astype(np.int64)
    first = place.min(axis=1, initial=np.iinfo(np.int64).max) if place.shape[1] else np.zeros(2, dtype=np.int64)
    row, col = place - first[:, None]
    return row, col


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"expected {name} to be a whole number of at least 1; found {value!r}")
    return int(value)
