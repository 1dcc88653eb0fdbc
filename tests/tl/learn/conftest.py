from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.core._file_rows import FileRows, FileSparseRows

N_ROWS = 12  # of a section of `toy`


@pytest.fixture
def largest_read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The most rows of one read of arrays that begin with this shape, in blocks of 12, by whichever way they are read."""
    found: dict[tuple[int, ...], int] = {}
    for kind in (FileRows, FileSparseRows, np.memmap, sparse.csr_matrix):

        def read(self: Any, index: Any, real: Any = kind.__getitem__) -> Any:
            part = real(self, index)
            if self.ndim > 1 and np.ndim(part) > 1:
                found[self.shape] = max(found.get(self.shape, 0), part.shape[0])
            return part

        monkeypatch.setattr(kind, "__getitem__", read)
    sampled = ("slots._content._N_SUMMED", "tl.learn.inputs._origin._N_ROWS", "slots._expression._LOOKED_AT")
    for name in (*sampled, "training._loader.ROWS"):
        monkeypatch.setattr(f"stpredict.{name}", N_ROWS)
    monkeypatch.setattr("stpredict.core._moments.row_slices.__defaults__", (N_ROWS,))
    monkeypatch.setitem(vars(stp.settings), "memory", 1)  # a row at a time, which settings do not accept
    return lambda *shape: max((n for known, n in found.items() if known[: len(shape)] == shape), default=0)
