from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

DOMAINS, GENES = ["0", "1", "2"], ["A", "B", "C", "D"]


@pytest.fixture
def table():
    effect = np.array([[2.0, 1.0, -1.0, np.nan], [1.5, -1.0, 3.0, np.nan], [-3.0, -0.5, -2.0, np.nan]])
    rows = [
        {
            "domain": name,
            "gene": gene,
            "effect": effect[i, j],
            "difference": np.nan_to_num(effect[i, j]),
            "n": 10 * (i + 1),
        }
        for i, name in enumerate(DOMAINS)
        for j, gene in enumerate(GENES)
    ]
    table = pd.DataFrame(rows)
    table["rank"] = (
        table.groupby("domain")["effect"].rank(ascending=False, na_option="bottom", method="first").astype(int)
    )
    return table.sort_values(["domain", "rank"], ignore_index=True)


def test_genes_stand_with_the_domain_that_they_mark_best(table):
    ax = stp.pl.domain_markers(table, n_genes=2, colors=["#111111", "#222222", "#333333"])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B", "C"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0  (10)", "1  (20)", "2  (30)"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[2, 1, -1], [1.5, -1, 3], [-3, -0.5, -2]])
    low, high = ax.images[0].get_clim()
    assert low == -high
    dots = ax.collections[0].get_offsets()
    assert dots.tolist() == [[0, 0], [1, 0], [2, 1]]
    assert [tuple(np.round(np.array(c[:3]) * 255).astype(int)) for c in ax.collections[1].get_facecolors()][1] == (
        34,
    ) * 3
    plt.close(ax.figure)


def test_some_domains_in_an_order_and_a_limit(table):
    ax = stp.pl.domain_markers(table, domains=["1", "0"], limit=5)
    assert [label.get_text()[0] for label in ax.get_yticklabels()] == ["1", "0"]
    assert ax.images[0].get_clim() == (-5, 5)
    plt.close(ax.figure)


def test_what_cannot_be_drawn_is_refused(table):
    with pytest.raises(KeyError, match="no column effect"):
        stp.pl.domain_markers(table.drop(columns="effect"))
    with pytest.raises(KeyError, match="found \\['9'\\]"):
        stp.pl.domain_markers(table, domains=["9"])
    with pytest.raises(ValueError, match="n_genes"):
        stp.pl.domain_markers(table, n_genes=0)
    with pytest.raises(ValueError, match="found none"):
        stp.pl.domain_markers(table.assign(difference=-1.0))
    with pytest.raises(ValueError, match="color for each of 3"):
        stp.pl.domain_markers(table, colors=["red"])
