"""Measurements in files, shuffled output by output: what is in memory is one output, or a block of rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.core._file_rows import FileRows, row_blocks, rows_in_file, write_rows
from stpredict.core._kept_rows import goes_with, room_for_rows


def shuffled_outputs(values: Any, rows: np.ndarray, n_outputs: int, rng: np.random.Generator) -> FileRows:
    """Some rows of values (n, k n_outputs) where each output has an order of its own, the same for each of its k columns.

    The orders are those of `rng.random((len(rows), n_outputs)).argsort(axis=0)`.

    Returns
    -------
    Rows of a file below `stpredict.settings.cache_dir`, which is removed when nobody holds them any longer.
    """
    n, width = len(rows), values.shape[1]
    place = room_for_rows()
    try:
        # Columns one below the other, so that an output is read and written at once.
        columns, keys = place / "columns.npy", place / "keys.npy"
        blocks = list(row_blocks(n, 8 * (width + n_outputs)))
        _make(columns, np.float32, (width, n))
        _make(keys, np.float64, (n_outputs, n))
        for part in blocks:
            with _mapped(columns) as found, _mapped(keys) as drawn:
                found[:, part] = values[rows[part]].T
                drawn[:, part] = rng.random((part.stop - part.start, n_outputs)).T
        for output in range(n_outputs):
            with _mapped(columns) as found, _mapped(keys) as drawn:
                found[output::n_outputs] = np.array(found[output::n_outputs])[:, np.argsort(drawn[output])]
        keys.unlink()
        write_rows(place / "values.npy", _transposed(columns, blocks), np.float32, (n, width))
        columns.unlink()
        shuffled = rows_in_file(np.load(place / "values.npy", mmap_mode="r"))
        assert isinstance(shuffled, FileRows)  # as it is a whole file
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return goes_with(shuffled, place)


def _make(path: Path, dtype: Any, shape: tuple[int, int]) -> None:
    np.lib.format.open_memmap(path, "w+", dtype, shape).flush()


@contextmanager
def _mapped(path: Path) -> Iterator[np.ndarray]:
    """An array in a file to be written to; its pages go with the map."""
    found = np.load(path, mmap_mode="r+")
    yield found
    found.flush()


def _transposed(path: Path, blocks: list[slice]) -> Iterator[np.ndarray]:
    for part in blocks:
        with _mapped(path) as found:
            yield np.array(found[:, part]).T
