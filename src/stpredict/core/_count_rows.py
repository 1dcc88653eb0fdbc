"""Counts with the depth behind each, put together when rows are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.core._file_rows import columns_of, fingerprint_of, in_files


class CountRows:
    """Counts and the depth behind each, side by side (n, 2 n_genes) float32.

    The depth of a count is that of its row times a number of its section and gene: a matrix of depths would take as much room as the
    counts, and is made for the rows that are asked for.

    Parameters
    ----------
    counts
        (m, n_genes) in memory or in a file.
    row
        (n,) rows of it; -1 for what is NaN.
    depth
        (n,) depth of each row.
    section
        (n,) int64 code of the section.
    level
        (n_codes, n_genes) what depths of a section are multiplied by.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, counts: Any, row: np.ndarray, depth: np.ndarray, section: np.ndarray, level: np.ndarray) -> None:
        self.counts, self.row, self.depth, self.section, self.level = counts, row, depth, section, level
        self.shape = (len(row), 2 * counts.shape[1])

    @property
    def size(self) -> int:
        """Number of values."""
        return self.shape[0] * self.shape[1]

    @property
    def in_file(self) -> bool:
        """Whether the counts are read from a file."""
        return in_files(self.counts)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        row = self.row[index]
        values = np.full((len(row), self.shape[1]), np.nan, dtype=np.float32)
        known = row >= 0
        every = bool(known.all())
        n_genes = self.counts.shape[1]
        counts = self.counts[row if every else row[known]]
        section, depth = self.section[index], self.depth[index]
        for code in np.unique(section if every else section[known]):
            here = known & (section == code)
            values[here, n_genes:] = depth[here][:, None] * self.level[code]
        values[known, :n_genes] = counts
        return values

    def columns_of(self, which: np.ndarray) -> CountRows:
        """The same rows with some of the genes, named by their columns of counts and of depths; nothing is read."""
        genes, depths = np.split(which, 2)
        if not np.array_equal(genes + self.counts.shape[1], depths):
            raise ValueError(
                f"expected columns of counts and those of their depths behind them; found {which.tolist()}"
            )
        return self.genes(genes)

    def genes(self, which: Any) -> CountRows:
        """The same rows with some of the genes; nothing is read."""
        counts = columns_of(self.counts, which)
        return CountRows(counts, self.row, self.depth, self.section, self.level[:, which])

    def fingerprint(self) -> str:
        """Digest of the values, the same as that of the array."""
        return fingerprint_of(self)
