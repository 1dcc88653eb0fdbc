from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata

from stpredict.metrics._ranks import ranks


def cases() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    reals, counts = rng.normal(size=(41, 7)), rng.poisson(1, (41, 7))
    gaps, ends = reals.copy(), reals.copy()
    gaps[3:5, 2] = np.nan
    gaps[:, 5] = np.nan
    ends[0], ends[-1], ends[2, 3] = np.inf, -np.inf, np.inf
    mixed = np.column_stack([counts[:, 0], reals[:, 0], np.zeros(41), np.arange(41) % 2])
    return {
        "reals": reals, "single": reals.astype(np.float32), "counts": counts, "gaps": gaps, "infinite": ends,
        "mixed": mixed, "booleans": counts > 0, "one row": reals[:1], "one column": reals[:, :1], "strided": reals[::3],
        "signed zeros": np.array([[0.0], [-0.0], [1.0]]), "nothing": reals[:0], "no column": reals[:, :0],
    }  # fmt: skip


@pytest.mark.parametrize("name", cases())
def test_equal_to_scipys(name: str) -> None:
    values = cases()[name]
    before = values.copy()
    np.testing.assert_array_equal(ranks(values), rankdata(values, axis=0) if values.size else np.empty(values.shape))
    np.testing.assert_array_equal(values, before)
