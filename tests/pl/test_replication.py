from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as stp


def found(n: int, leaky: object = False):
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(200)]
    tables = {
        f"c{i}": pd.DataFrame({"gene": genes, "well_predicted": rng.random(200) < 0.4, "leaky": leaky})
        for i in range(n)
    }
    return stp.tl.replication(tables)


def test_bars_are_the_observed_numbers_and_steps_the_expected_ones() -> None:
    result = found(4)
    ax = stp.pl.replication(result)
    assert [bar.get_height() for bar in ax.patches] == result.counts["observed"].tolist()
    steps = [line.get_ydata()[0] for line in ax.lines]
    np.testing.assert_allclose(steps, np.maximum(result.counts["expected"], 0.1))
    assert [text.get_text() for text in ax.texts] == [f"{n}" for n in result.counts["observed"]]
    assert ax.get_title(loc="left") == ""


def test_many_slides_are_lines_and_leaks_are_said() -> None:
    ax = stp.pl.replication(found(90, True))
    assert not ax.patches
    assert len(ax.lines) == 2
    assert ax.get_title(loc="left") == "leaky"


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match="found DataFrame"):
        stp.pl.replication(pd.DataFrame())
