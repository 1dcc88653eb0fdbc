from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from stpredict import pl
from stpredict.pl._ceiling import spread


def points(ax):
    return next(line for line in ax.lines if line.get_marker() == "o")


def test_points_title_and_diagonal(scores):
    ax = pl.ceiling(scores, model="ridge")
    per_gene = scores[scores["model"] == "ridge"].groupby(["patient", "gene"])["pearson"].mean().groupby("gene").mean()
    np.testing.assert_allclose(points(ax).get_ydata(), per_gene)
    np.testing.assert_allclose(points(ax).get_xdata(), [0.6, 0.7, 0.8, 0.9])
    assert ax.get_title(loc="left") == f"ridge\nmean r / mean ceiling = {per_gene.mean():.2f} / 0.75"
    diagonal = ax.lines[0]
    assert (diagonal.get_xdata() == diagonal.get_ydata()).all()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["r = ceiling"]


def test_default_model_is_the_best_that_is_no_baseline(scores):
    smooth = scores[scores["model"] == "ridge"].assign(model="ridge (smoothed)", pearson=0.99)
    table = pd.concat([scores, smooth])
    table.loc[table["model"] == "net", "pearson"] += 1
    title = pl.ceiling(table).get_title(loc="left")
    assert title.startswith("net (leaky)\n")
    assert title.endswith("\n1 of 4 genes undefined")


@pytest.mark.parametrize("crowded", [True, False])
def test_names_of_the_best_eight_do_not_overlap(crowded):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"model": "m", "sample": "s", "patient": "p", "gene": [f"GENE{i}" for i in range(40)]})
    table["ceiling"] = rng.uniform(0.9, 0.92, 40) if crowded else rng.uniform(0.1, 0.9, 40)
    table["pearson"] = table["ceiling"] * rng.uniform(0.9, 0.95, 40)
    ax = pl.ceiling(table)
    assert {t.get_text() for t in ax.texts} == set(table.nlargest(8, "pearson")["gene"])
    ax.figure.draw_without_rendering()
    panel, page = ax.get_window_extent(), ax.figure.bbox
    boxes = [text.get_bbox_patch() or text for text in ax.texts]
    from matplotlib.text import Text

    extents = [Text.get_window_extent(text) for text in boxes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(extents, 2))
    assert all(panel.x1 < e.x0 and e.x1 <= page.x1 and panel.y0 <= e.y0 and e.y1 <= panel.y1 for e in extents)


def test_spread_moves_as_little_as_possible():
    np.testing.assert_allclose(spread(np.array([0.0, 5.0, 9.0]), 2, -10, 20), [0, 5, 9])
    np.testing.assert_allclose(spread(np.array([4.0, 4.0, 4.0]), 2, -10, 20), [2, 4, 6])
    np.testing.assert_allclose(spread(np.array([4.0, 4.0, 4.0]), 2, 3, 20), [3, 5, 7])
    np.testing.assert_allclose(spread(np.array([4.0, 4.0, 4.0]), 2, 0, 2), [0, 1, 2])
    np.testing.assert_allclose(spread(np.array([4.0]), 2, 0, 9), [4])


def test_draws_into_axes(scores):
    figure, ax = plt.subplots()
    assert pl.ceiling(scores, model="ridge", ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_errors(scores):
    with pytest.raises(KeyError, match="ceiling=True"):
        pl.ceiling(scores.drop(columns="ceiling"))
    with pytest.raises(KeyError, match="other"):
        pl.ceiling(scores, model="other")
    with pytest.raises(ValueError, match="'mean'"):
        pl.ceiling(scores, model="mean")
    assert plt.get_fignums() == []


@pytest.mark.parametrize("seed", range(3))
def test_names_stand_apart_and_their_lines_cross_neither_each_other_nor_the_cloud(seed):
    import shapely
    from matplotlib.text import Text

    rng = np.random.default_rng(seed)
    top = rng.normal(0.3, 0.25, 400)
    scores = pd.DataFrame({"model": "ridge", "sample": "s", "patient": "p", "gene": [f"GENE{i}" for i in range(400)]})
    scores["pearson"], scores["ceiling"] = np.minimum(0.3 * top + rng.normal(0.08, 0.1, 400), 0.35), top
    ax = pl.ceiling(scores)
    figure = ax.figure
    figure.canvas.draw()
    names = [text for text in ax.texts if text.get_text().startswith("GENE")]
    boxes = [Text.get_window_extent(text) for text in names]  # without the line
    assert len(boxes) == 8
    ends = ax.transData.transform([text.xy for text in names])
    lines = [shapely.LineString([(box.x0, (box.y0 + box.y1) / 2), end]) for box, end in zip(boxes, ends, strict=True)]
    assert not any(a.crosses(b) for i, a in enumerate(lines) for b in lines[i + 1 :])
    points = ax.transData.transform(np.column_stack([scores["ceiling"], scores["pearson"]]))
    assert not any(box.contains(*point) for box in boxes for point in points)
    worse = (scores["pearson"] < min(text.xy[1] for text in names) - 0.005).to_numpy()
    cloud = shapely.MultiPoint(points[worse])
    assert not any(line.intersects(cloud.buffer(0.5)) for line in lines)
    title = ax._left_title.get_window_extent()
    assert title.x1 <= figure.bbox.x1
