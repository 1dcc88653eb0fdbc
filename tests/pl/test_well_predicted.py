from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

from stpredict import pl
from stpredict.pl._style import BLUE, LIGHT_GRAY


@pytest.fixture
def table():
    """Two hundred genes, of which two are undefined and sixty well predicted."""
    rng = np.random.default_rng(0)
    r = np.r_[rng.uniform(0.3, 0.8, 60), rng.uniform(-0.3, 0.3, 138), np.nan, np.nan]
    genes = [f"G{i}" for i in range(200)]
    return pd.DataFrame({"gene": genes, "pearson": r, "well_predicted": np.arange(200) < 60, "leaky": False})


def violins(ax, color):
    found = [c for c in ax.collections if isinstance(c, PolyCollection)]
    return [c for c in found if to_hex(c.get_facecolor()[0]) == color.lower()]


def names(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


def median(ax):
    return [line.get_ydata()[0] for line in ax.lines if line.get_markerfacecolor() == "white"]


def test_violins_of_the_well_predicted_genes_and_counts(table):
    none = table.assign(well_predicted=False)
    ax = pl.well_predicted({"sequoia": table, "permuted labels": none})
    assert names(ax) == ["sequoia", "permuted\nlabels"]
    assert [text.get_text() for text in ax.texts] == ["60\nof 200", "0\nof 200"]
    called = table.loc[table["well_predicted"], "pearson"]
    assert median(ax) == pytest.approx([called.median()])
    (violin,) = violins(ax, BLUE)
    heights = violin.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((called.min(), called.max()))
    behind = violins(ax, LIGHT_GRAY)
    assert len(behind) == 2
    assert behind[0].get_paths()[0].vertices[:, 1].min() == pytest.approx(table["pearson"].min())


def test_counts_stand_above_the_violins_and_inside_the_panel(table):
    ax = pl.well_predicted({"a": table, "b": table.assign(pearson=table["pearson"] / 2)})
    ax.figure.draw_without_rendering()
    for text, body in zip(ax.texts, violins(ax, LIGHT_GRAY), strict=True):
        box = text.get_window_extent()
        assert box.y0 > ax.transData.transform((0, body.get_paths()[0].vertices[:, 1].max()))[1]
        assert box.y1 <= ax.get_window_extent().y1


def test_only_the_well_predicted(table):
    ax = pl.well_predicted({"a": table}, all_genes=False)
    assert not violins(ax, LIGHT_GRAY)
    assert ax.get_ylabel() == "Pearson's r of well-predicted genes"


def test_column_of_labels(table):
    both = pd.concat([table.assign(model="z", cancer="A"), table.iloc[:100].assign(model="b", cancer="B")])
    ax = pl.well_predicted(both)
    assert names(ax) == ["z", "b"]
    assert [text.get_text() for text in ax.texts] == ["60\nof 200", "60\nof 100"]
    assert names(pl.well_predicted(both, by="cancer")) == ["A", "B"]
    assert names(pl.well_predicted(table)) == ["the\nmodel"]


def test_leaks_are_hatched(table):
    ax = pl.well_predicted({"a": table.assign(leaky=True), "b": table.assign(leaky=False)})
    assert names(ax) == ["a\nleaky", "b"]
    ax = pl.well_predicted(
        {"a": table.assign(leaky="unknown"), "b": table.assign(leaky="False")}
    )  # as from a text file
    assert names(ax) == ["a\nleak unknown", "b"]
    assert [bool(v.get_hatch()) for v in violins(ax, BLUE)] == [True, False]


def test_thousands_and_many_labels(table):
    large = pd.concat([table] * 10)
    ax = pl.well_predicted({f"cancer {i}": large for i in range(12)})
    assert ax.texts[0].get_text() == "600\nof 2,000"
    assert ax.get_xticklabels()[0].get_rotation() == 45


def test_few_genes_and_undefined_ones(table):
    ax = pl.well_predicted({"two": table.iloc[[0, 1]], "none": table.iloc[[198, 199]]})
    assert not violins(ax, BLUE)
    assert [text.get_text() for text in ax.texts] == ["2\nof 2", "0\nof 2"]


def test_draws_into_axes(table):
    figure, ax = plt.subplots()
    assert pl.well_predicted(table, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_errors(table):
    before = table.copy()
    with pytest.raises(KeyError, match="missing \\['pearson'\\]"):
        pl.well_predicted(table.drop(columns="pearson"))
    with pytest.raises(KeyError, match="the table of 'b'"):
        pl.well_predicted({"a": table, "b": table.drop(columns="gene")})
    with pytest.raises(ValueError, match="at least one gene"):
        pl.well_predicted(table.iloc[:0])
    with pytest.raises(ValueError, match="at least one table"):
        pl.well_predicted({})
    with pytest.raises(TypeError, match="mapping"):
        pl.well_predicted([table])
    with pytest.raises(TypeError, match="for 'a'; found list"):
        pl.well_predicted({"a": [1]})
    with pytest.raises(TypeError, match="Axes"):
        pl.well_predicted(table, ax="here")
    pd.testing.assert_frame_equal(table, before)
    assert plt.get_fignums() == []


def test_a_legend_says_what_is_gray():
    table = pd.DataFrame(
        {
            "gene": list("ABCD"),
            "pearson": [0.5, 0.4, 0.1, 0.2],
            "well_predicted": [True, True, False, False],
            "leaky": False,
        }
    )
    table["leaky"] = False
    ax = pl.well_predicted(table)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["well predicted", "all genes"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["the\nmodel"]
    assert len(pl.well_predicted(table, all_genes=False).get_legend().get_texts()) == 1
