"""Features in files are standardized by the rows that are named, as those in memory are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stpredict.core._file_rows import FileRows, FileTable
from stpredict.core._standardized import standardized


def test_rows_that_are_not_named_have_no_part_in_the_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, size=(60, 5)).astype(np.float32)
    sample, by = np.repeat(["a", "b", "c"], 20), np.arange(60) % 20 < 12
    by[40:] = False  # of the last section none: all of its rows count
    values.tofile(tmp_path / "values")
    in_file = FileTable([FileRows(tmp_path / "values", values.dtype, values.shape)], np.arange(60))
    found = standardized(in_file, sample, by)
    assert isinstance(found, FileTable)
    np.testing.assert_array_equal(found[np.arange(60)], standardized(values, sample, by))
    np.testing.assert_allclose(found[np.flatnonzero(by & (sample == "a"))].mean(axis=0), 0, atol=1e-5)
    changed = values.copy()
    changed[~by & (sample != "c")] += 100
    changed.tofile(tmp_path / "values")
    again = standardized(in_file, sample, by)
    np.testing.assert_array_equal(again.mean, found.mean)
