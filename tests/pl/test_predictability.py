from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from stpredict import pl


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"gene": [f"GENE{i}" for i in range(30)], "ceiling": rng.uniform(0.2, 0.9, 30)})
    table["pearson"] = table["ceiling"] * rng.uniform(0, 0.9, 30)
    table["q"] = np.where(table["pearson"] > 0.2, 0.01, 0.5)
    table["neighbors_from"] = "other patients"
    table.loc[29, ["pearson", "ceiling"]] = np.nan
    return table


def drawn(ax):
    blue, gray = (line for line in ax.lines if line.get_marker() == "o")
    return gray, blue


def test_points_names_and_title(table):
    ax = pl.predictability(table)
    gray, blue = drawn(ax)
    found = table["q"][:29] <= 0.05
    np.testing.assert_allclose(blue.get_xydata(), table.loc[:28, ["ceiling", "pearson"]][found])
    assert len(gray.get_xdata()) == 29 - found.sum()
    assert {text.get_text() for text in ax.texts} == set(table.nlargest(8, "pearson")["gene"])
    expected = f"{found.sum()} of 30 genes at a false-discovery rate of 0.05\nneighbors from other patients"
    assert ax.get_title(loc="left") == expected
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["q ≤ 0.05", "q > 0.05", "r = ceiling"]


def test_names_stand_beside_the_panel_and_inside_the_figure(table):
    """Also where a gene that is named has a negative ceiling."""
    rng = np.random.default_rng(1)
    cloud = pd.DataFrame({"gene": [f"C{i}" for i in range(400)], "ceiling": rng.uniform(-0.4, 0.9, 400)})
    cloud = cloud.assign(pearson=rng.uniform(-0.1, 0.15, 400), q=0.9, neighbors_from="other patients")
    table = table[:29].assign(pearson=lambda t: t["pearson"] / 3, q=np.where(table["q"][:29] < 0.05, 0.01, 0.5))
    table.loc[table["pearson"].idxmax(), "ceiling"] = -0.35
    ax = pl.predictability(pd.concat([table, cloud], ignore_index=True))
    ax.figure.draw_without_rendering()
    panel = ax.get_window_extent()
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    assert len(boxes) == 8
    assert all(panel.x1 < box.x0 and box.x1 <= ax.figure.bbox.x1 and box.y1 <= panel.y1 for box in boxes)
    lowest = min(text.xy[1] for text in ax.texts)
    assert all(box.y1 > ax.transData.transform((0, lowest))[1] for box in boxes)


def test_an_object_gives_the_figure_of_its_table(table):
    adata = ad.AnnData(var=pd.DataFrame(index=[*table["gene"], "untested"]))
    for column, name in (("p", "pearson"), ("p_ceiling", "ceiling"), ("p_q", "q")):
        adata.var[column] = [*table[name], np.nan]
    adata.uns["stpredict"] = {"p": {"neighbors_from": "other patients"}}
    ax, expected = pl.predictability(adata, "p"), pl.predictability(table)
    assert ax.get_title(loc="left") == expected.get_title(loc="left")
    np.testing.assert_allclose(drawn(ax)[1].get_xydata(), drawn(expected)[1].get_xydata())
    with pytest.raises(KeyError, match=r"run stp.tl.predictability\(adata\) first"):
        pl.predictability(adata)


def test_nothing_found_is_drawn_without_names(table):
    ax = pl.predictability(table.assign(q=1.0))
    assert not ax.texts
    assert ax.get_title(loc="left").startswith("0 of 30 genes")
    with pytest.raises(ValueError, match="found none"):
        pl.predictability(table.assign(ceiling=np.nan))
    with pytest.raises(KeyError, match="'q'"):
        pl.predictability(table.drop(columns="q"))
    with pytest.raises(ValueError, match="fdr"):
        pl.predictability(table, fdr=0)
