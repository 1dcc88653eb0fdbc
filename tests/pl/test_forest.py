from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.pl._style import BLUE, GRAY


@pytest.fixture
def table() -> pd.DataFrame:
    table = pd.DataFrame({"term": ["risk", "grade", "grade"], "level": ["per SD", "2 vs 1", "3 vs 1"]})
    for end, shift in (("", 0.0), ("_alone", 0.2)):
        table[f"hazard_ratio{end}"] = [1.5 + shift, 2.0 + shift, np.nan]
        table[f"low{end}"], table[f"high{end}"] = [1.1, 0.8, np.nan], [2.1, 4.5, np.nan]
        table[f"p{end}"] = [0.003, 1e-7, np.nan]
    table.attrs = {"n_patients": 90, "n_events": 31, "leaky": "unknown"}
    return table


def test_forest(table) -> None:
    ax = stp.pl.forest(table)
    together, alone = (line for line in ax.lines if line.get_marker() == "s")
    assert (together.get_color(), alone.get_color()) == (BLUE, GRAY)
    np.testing.assert_allclose(together.get_xdata(), [1.5, 2.0, np.nan])
    np.testing.assert_allclose(alone.get_xdata(), [1.7, 2.2, np.nan])
    assert ax.get_xscale() == "log"
    assert ax.get_title(loc="left") == "90 patients, 31 events (leak unknown)"
    assert [text.get_text() for text in ax.texts] == [
        "1.50 (1.10–2.10), p = 0.003",
        "2.00 (0.80–4.50), p < 0.0001",
        "no answer",
    ]
    assert len([line for line in stp.pl.forest(table, alone=False).lines if line.get_marker() == "s"]) == 1


def test_errors(table) -> None:
    with pytest.raises(KeyError, match="without low"):
        stp.pl.forest(table.drop(columns="low"))
    with pytest.raises(ValueError, match="no answer"):
        stp.pl.forest(table.assign(hazard_ratio=np.nan))
