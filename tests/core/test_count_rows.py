from __future__ import annotations

from pathlib import Path

import numpy as np

from stpredict.core._count_rows import CountRows
from stpredict.core._file_rows import FileTable, fingerprint_of, rows_in_file


def test_depths_are_put_beside_the_counts_that_are_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (5, 4)).astype(np.float32)
    row, section = np.array([0, 1, -1, 2, 3, 4]), np.array([0, 0, 0, 1, 1, 0])
    depth, level = rng.uniform(5, 9, 6), rng.uniform(0.5, 2, (2, 4))
    wanted = np.concatenate([counts[row], depth[:, None] * level[section]], axis=1).astype(np.float32)
    wanted[2] = np.nan
    np.save(tmp_path / "counts.npy", counts)
    on_disk = rows_in_file(np.load(tmp_path / "counts.npy", mmap_mode="r"))
    for each in (counts, FileTable([on_disk], np.arange(5))):
        found = CountRows(each, row, depth, section, level)
        assert found.shape == wanted.shape
        assert found.in_file == (each is not counts)
        mask = np.array([True, False, True, False, True, True])
        for index in (slice(0, 6), slice(3, 5), np.array([4, 2, 0]), mask, np.zeros(6, dtype=bool)):
            assert np.array_equal(found[index], wanted[index], equal_nan=True)
        some = found.genes(slice(1, 3))
        assert np.array_equal(some[slice(0, 6)], wanted[:, [1, 2, 5, 6]], equal_nan=True)
        assert found.fingerprint() == fingerprint_of(wanted)
