"""Targets of training rows whose unit follows from the section: no other row of the section has a part in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import columns_of, fingerprint_of, in_files, read_rows, rows_in_file
from stpredict.metrics._log_normalize import log_normalize
from stpredict.metrics._pearson_residuals import pearson_residuals, proportions_of
from stpredict.slots._depth import counted_rows, depth_of, section_codes
from stpredict.slots._expression import to_dense
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix

if TYPE_CHECKING:
    from anndata import AnnData


class PartSections:
    """Values of rows in sections of which only a part is trained on, computed again by that part.

    Proportions of genes and median depths are those of the training rows there; a section is read at a time.

    Parameters
    ----------
    adata
        Object with counts.
    chosen
        (n_obs,) bool, training rows that were measured.
    columns
        Columns of the counts; all when `None`.
    normalization, sample_key
        Record of the normalization, and the column of `obs` with the section.

    Attributes
    ----------
    again
        (n_obs,) bool, the rows that have values of their own; where whole sections are trained on there are none.
    """

    def __init__(
        self,
        adata: AnnData,
        chosen: np.ndarray,
        columns: np.ndarray | None,
        normalization: Mapping[str, Any],
        sample_key: str,
    ) -> None:
        self.columns, self.normalization = columns, normalization
        self.again = np.zeros(adata.n_obs, dtype=bool)
        self.by_section: dict[int, dict[str, Any]] = {}
        if not follows_section(adata, normalization):
            return
        depth = depth_of(adata)
        assert depth is not None  # there are counts
        self.depth = depth
        matrix = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")
        counted, (_, self.section) = counted_rows(adata, matrix, depth), section_codes(adata, sample_key)
        in_file = rows_in_file(matrix)
        self.counts = matrix if in_file is None else in_file  # without the map, for other processes
        split = np.intersect1d(self.section[counted & ~chosen], self.section[chosen])
        self.again = chosen & np.isin(self.section, split)
        for code in split:
            inside = np.flatnonzero(self.again & counted & (self.section == code))
            self.by_section[int(code)] = self._settings(inside)

    def _settings(self, inside: np.ndarray) -> dict[str, Any]:
        """What the values of a section follow from, by its training rows that are counted."""
        if self.normalization["method"] != "pearson_residuals":
            return {"target_sum": np.median(self.depth[inside]) if len(inside) else 1.0}
        clip = self.normalization.get("clip")
        share = proportions_of(self._counts(inside), self.depth[inside])
        limit = max(np.sqrt(len(inside)), 1.0) if clip is None else clip
        return {"theta": self.normalization.get("theta"), "clip": limit, "proportions": share}

    def _counts(self, rows: np.ndarray) -> Any:
        counts = read_rows(self.counts, rows)
        return counts if self.columns is None else counts[:, self.columns]

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Values (n, n_columns) of some of these rows, numbers in the object."""
        counts = self._counts(rows)
        found = np.zeros(counts.shape, dtype=np.float32)
        function: Any = pearson_residuals if self.normalization["method"] == "pearson_residuals" else log_normalize
        for code in np.unique(self.section[rows]):
            here = np.flatnonzero(self.section[rows] == code)
            found[here] = to_dense(function(counts[here], self.depth[rows[here]], **self.by_section[int(code)]))
        return found

    def of(self, columns: np.ndarray) -> PartSections:
        """The same with some of the columns."""
        part = object.__new__(PartSections)
        part.__dict__ |= self.__dict__
        part.columns = columns if self.columns is None else self.columns[columns]
        part.by_section = {
            code: {name: value[columns] if name == "proportions" else value for name, value in settings.items()}
            for code, settings in self.by_section.items()
        }
        return part


class PartRows:
    """Rows (n, G) of a matrix, those of sections that are trained on in part with values of their own; read when they are asked for.

    Parameters
    ----------
    values
        Rows of the matrix (n, G).
    index
        (n,) numbers of the rows in the object.
    part
        Values of their own.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, values: Any, index: np.ndarray, part: PartSections) -> None:
        self.values, self.index, self.part = values, index, part
        self.shape = values.shape

    @property
    def size(self) -> int:
        """Number of values."""
        return self.shape[0] * self.shape[1]

    @property
    def in_file(self) -> bool:
        """Whether rows are read from a file."""
        return in_files(self.values)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        at = self.index[index]
        found = to_dense(read_rows(self.values, index)).astype(np.float32)
        if (here := np.flatnonzero(self.part.again[at])).size:
            found[here] = self.part.values(at[here])
        return found

    def columns_of(self, which: Any) -> PartRows:
        """The same rows with some of the columns."""
        columns = np.arange(self.shape[1])[which]
        return PartRows(columns_of(self.values, columns), self.index, self.part.of(columns))

    def fingerprint(self) -> str:
        """Digest of the values, the same as that of the array in memory."""
        return fingerprint_of(self)


def training_part(
    adata: AnnData, train: np.ndarray, normalization: Mapping[str, Any], sample_key: str
) -> tuple[AnnData, np.ndarray, PartRows | None]:
    """The object and the training rows (n_obs,) in it that genes are selected on, and their values where these are not in `X`.

    Where only a part of a section is trained on, a new object of the training rows, with values of their own; of an object whose
    arrays are in files the same one.
    """
    part = PartSections(adata, train, None, normalization, sample_key)
    if not part.again.any():
        return adata, train, None
    source = rows_in_file(adata.X)
    if source is not None:
        return adata, train, PartRows(source, np.arange(adata.n_obs), part)
    alone = adata[train].copy()
    alone.X = PartRows(alone.X, np.flatnonzero(train), part)[np.arange(alone.n_obs)]
    return alone, np.ones(alone.n_obs, dtype=bool), None


def follows_section(adata: AnnData, normalization: Mapping[str, Any]) -> bool:
    """Whether the unit of the values follows from what else was measured in the section."""
    of_section = normalization.get("method") == "pearson_residuals" or normalization.get("target_sum") == "median"
    return of_section and Key.COUNTS in adata.layers
