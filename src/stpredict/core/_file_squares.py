"""Squares of tiles in files: read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stpredict.core._constant import constant
from stpredict.core._file_rows import FileRows, fingerprint_of


@dataclass(frozen=True)
class SquarePart:
    """Squares of one encoder.

    Attributes
    ----------
    values
        (m, k, d) in a file.
    mask
        (n, k) bool of the rows that are taken, which tiles there are.
    mean, scale
        (n_groups, d) float32, what is taken off the values of a group and what they are multiplied by; as they are when `None`.
    """

    values: FileRows
    mask: np.ndarray
    mean: np.ndarray | None = None
    scale: np.ndarray | None = None


class FileSquares:
    """Squares of tiles (n, k, d) of some rows of arrays in files, side by side, as float32; 0 where there is no tile.

    Parameters
    ----------
    parts
        Squares of each encoder.
    rows
        (n,) rows of their files.
    group
        (n,) number of the group of each row, by which its values are standardized.
    """

    dtype = np.dtype(np.float32)
    ndim = 3
    in_file = True

    def __init__(self, parts: Sequence[SquarePart], rows: np.ndarray, group: np.ndarray | None = None) -> None:
        self.parts, self.rows, self.group = list(parts), rows, group
        _, k, _ = parts[0].values.shape
        self.shape = (len(rows), k, sum(part.values.shape[2] for part in parts))

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        group = None if self.group is None else self.group[index]
        found = [_of_part(part, self.rows[index], part.mask[index], group) for part in self.parts]
        return found[0] if len(found) == 1 else np.concatenate(found, axis=2)

    def take(self, index: np.ndarray) -> FileSquares:
        """Some of the rows; nothing is read."""
        parts = [replace(part, mask=part.mask[index]) for part in self.parts]
        return FileSquares(parts, self.rows[index], None if self.group is None else self.group[index])

    def tokens(self, kept: np.ndarray) -> SquareTokens:
        """The tiles that a mask (n, k) keeps, one row each."""
        return SquareTokens(self, *np.nonzero(kept))

    def standardized(self, group: np.ndarray, by: np.ndarray) -> FileSquares:
        """The same squares in units of the middle tiles of their group (n,): of the rows `by` (n,), or all without any there.

        Moments are taken now, of one group at a time.
        """
        middle = self.shape[1] // 2
        parts = []
        for part in self.parts:
            scales = []
            for code in range(int(group.max(initial=-1)) + 1):
                own = np.flatnonzero(group == code)
                own = own[by[own]] if by[own].any() else own
                values = part.values[self.rows[own], middle].astype(np.float32, copy=False)
                scales.append(middle_scales(np.where(part.mask[own, middle, None], values, 0)))
            mean, scale = (np.stack(each) for each in zip(*scales, strict=True))
            parts.append(replace(part, mean=mean, scale=scale))
        return FileSquares(parts, self.rows, group)

    def fingerprint(self) -> str:
        """Digest of the values, the same as that of the array in memory."""
        return fingerprint_of(self)


class SquareTokens:
    """Some tiles of squares, one row each (m, d)."""

    dtype = np.dtype(np.float32)
    ndim = 2
    in_file = True

    def __init__(self, squares: FileSquares, square: np.ndarray, tile: np.ndarray) -> None:
        self.squares, self.square, self.tile = squares, square, tile
        self.shape = (len(square), squares.shape[2])

    def __len__(self) -> int:
        return len(self.square)

    def __getitem__(self, index: Any) -> np.ndarray:
        whole, at = np.unique(self.square[index], return_inverse=True)
        return np.asarray(self.squares[whole][at, self.tile[index]])


def middle_scales(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is taken off the features of middle tiles (m, d) and what they are multiplied by, (d,) float32 both."""
    middle = values.astype(np.float64)
    mean, std = middle.mean(axis=0), middle.std(axis=0)
    scale = 1 / np.where(constant(std, mean), np.inf, std)
    return mean.astype(np.float32), scale.astype(np.float32)


def _of_part(part: SquarePart, rows: np.ndarray, mask: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """Squares (m, k, d) of some rows."""
    values = np.where(mask[..., None], part.values[rows].astype(np.float32, copy=False), np.float32(0))
    if group is not None and part.mean is not None and part.scale is not None:
        values = (values - part.mean[group][:, None]) * part.scale[group][:, None]
        values[~mask] = 0
    return values
