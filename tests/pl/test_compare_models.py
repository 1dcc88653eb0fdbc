from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from stpredict import pl, tl
from stpredict.pl._style import BLUE, GRAY


def test_differences_lie_on_their_lines_and_are_blue_where_tested():
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(
        [
            {"model": model, "patient": f"P{p}", "sample": f"P{p}", "gene": "G", "pearson": gain + rng.normal(0, 0.02)}
            for model, gain in (("base", 0.3), ("same", 0.3), ("net", 0.5))
            for p in range(6)
        ]
    )
    table = tl.compare_models(scores)
    ax = pl.compare_models(table)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx(table["difference"].tolist())
    assert [to_hex(line.get_color()) for line in dots] == [BLUE.lower(), BLUE.lower(), GRAY.lower()]
    assert [text.get_text().split(",")[1] for text in ax.texts] == [" 6 patients"] * 3
    assert ax.get_xlabel() == "difference in Pearson's r, 95% interval"
    few = pl.compare_models(tl.compare_models(scores[scores["patient"].isin(["P0", "P1"])]))
    assert {text.get_text() for text in few.texts} == {"too few, 2 patients"}


def test_other_tables_are_refused():
    with pytest.raises(KeyError, match="compare_models"):
        pl.compare_models(pd.DataFrame({"model": ["a"]}))
