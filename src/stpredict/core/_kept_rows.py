"""Blocks of rows put one below the other, in memory or in a file that goes with them."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from stpredict.core._file_rows import FileRows
from stpredict.core._settings import settings


def room_for_rows() -> Path:
    """A new folder for files that are needed for the time of a call, below `stpredict.settings.cache_dir`."""
    parent = settings.cache_dir / "cohorts" / "folds"
    parent.mkdir(parents=True, exist_ok=True)
    return Path(mkdtemp(dir=parent))


def goes_with(rows: FileRows, folder: Path) -> FileRows:
    """The same rows; the folder is removed when nobody holds them any longer."""
    weakref.finalize(rows, shutil.rmtree, folder, ignore_errors=True)
    return rows


class KeptRows:
    """Blocks of rows (n, …) of one type that are put one below the other.

    Parameters
    ----------
    in_file
        Whether they are written to a file.
    """

    def __init__(self, in_file: bool) -> None:
        self.blocks: list[np.ndarray] = []
        self.folder = room_for_rows() if in_file else None
        self.n_rows = 0

    def append(self, block: np.ndarray) -> None:
        """Put a block below the others."""
        self.n_rows += len(block)
        if self.folder is None or not self.blocks:
            self.blocks.append(block)  # of a file the first one, whose type and shape are those of all
        if self.folder is not None:
            with (self.folder / "rows").open("ab") as file:
                file.write(np.ascontiguousarray(block, dtype=self.blocks[0].dtype).tobytes())

    def rows(self) -> Any:
        """All of them: an array, or rows of a file, which is removed when nobody holds them any longer."""
        if self.folder is None:
            return np.concatenate(self.blocks)
        first = self.blocks[0]
        return goes_with(FileRows(self.folder / "rows", first.dtype, (self.n_rows, *first.shape[1:])), self.folder)
