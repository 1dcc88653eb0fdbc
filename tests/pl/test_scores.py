from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

from stpredict import pl
from stpredict.pl._style import BLUE, GRAY, ORANGE


def violins(ax):
    return [c for c in ax.collections if isinstance(c, PolyCollection)]


def medians(ax):
    return [line.get_ydata()[0] for line in ax.lines if line.get_markerfacecolor() == "white"]


def names(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


def test_violins_labels_and_medians(scores):
    ax = pl.scores(scores)
    assert names(ax) == ["mean", "ridge", "net\nleaky", "noise\nceiling"]
    assert [to_hex(v.get_facecolor()[0]) for v in violins(ax)] == [c.lower() for c in (GRAY, BLUE, ORANGE)]
    assert [bool(v.get_hatch()) for v in violins(ax)] == [False, True, False]
    per_gene = scores.groupby(["model", "patient", "gene"])["pearson"].mean().groupby(["model", "gene"]).mean()
    expected = [per_gene["ridge"].median(), per_gene["net"].median(), 0.75]
    assert medians(ax) == pytest.approx(expected)
    assert 0 in [line.get_ydata()[0] for line in ax.lines]


def test_undefined_genes_are_counted(scores):
    ax = pl.scores(scores)
    assert [text.get_text() for text in ax.texts] == ["4 undefined", "", "1 undefined\n1 more in\nsome section", ""]
    lowest = min(v.get_paths()[0].vertices[:, 1].min() for v in violins(ax))
    figure = ax.figure
    figure.draw_without_rendering()
    box = ax.texts[2].get_window_extent()
    assert box.y1 < ax.transData.transform((0, lowest))[1]


def test_order_baselines_and_ceiling(scores):
    ax = pl.scores(scores, order=["net", "ridge"], baselines=["net"], ceiling=False)
    assert names(ax) == ["net\nleaky", "ridge"]
    assert to_hex(violins(ax)[0].get_facecolor()[0]) == GRAY.lower()
    assert to_hex(violins(ax)[1].get_facecolor()[0]) == BLUE.lower()


def test_ridge_is_a_model_when_alone(scores):
    ax = pl.scores(scores[scores["model"] != "net"], ceiling=False)
    assert to_hex(violins(ax)[0].get_facecolor()[0]) == BLUE.lower()


def test_other_metric_has_no_ceiling(scores):
    scores.loc[scores["model"] == "net", "rmse"] -= 0.5
    scores["ceiling"] = 0.5
    ax = pl.scores(scores, metric="rmse", baselines=["mean"])
    centers = scores.groupby(["model", "gene"])["rmse"].mean().groupby("model").median()
    # The best, which is the lowest, stands right; the baseline stands left whatever its score.
    assert names(ax) == ["mean", *sorted(["ridge", "net\nleaky"], key=lambda n: -centers[n.split()[0]])]
    assert ax.get_ylabel() == "RMSE per gene"


def test_by_another_column(scores):
    ax = pl.scores(scores[scores["model"] == "ridge"], by="patient", ceiling=False)
    assert sorted(names(ax)) == ["p1", "p2"]


def test_draws_into_axes(scores):
    figure, ax = plt.subplots()
    assert pl.scores(scores, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_one_gene_is_a_point(scores):
    ax = pl.scores(scores[(scores["gene"] == "A") & (scores["model"] == "ridge")], ceiling=False)
    assert not violins(ax)
    assert np.isfinite([line.get_ydata()[0] for line in ax.lines]).all()


def test_errors(scores):
    before = scores.copy()
    with pytest.raises(KeyError, match="ssim"):
        pl.scores(scores, metric="ssim")
    with pytest.raises(KeyError, match="other"):
        pl.scores(scores, order=["other"])
    with pytest.raises(ValueError, match="row"):
        pl.scores(scores.iloc[:0])
    with pytest.raises(TypeError, match="table"):
        pl.scores({})
    with pytest.raises(TypeError, match="Axes"):
        pl.scores(scores, ax="here")
    pd.testing.assert_frame_equal(scores, before)
    assert plt.get_fignums() == []


def test_values_are_no_genes(scores):
    assert pl.scores(scores.assign(target="obsm['scores']")).get_ylabel() == "Pearson's r per value"
