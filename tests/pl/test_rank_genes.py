from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stpredict import get, pl
from stpredict.slots._score_tables import RankedGenes


def means(ax):
    return next(line for line in ax.lines if line.get_markersize() == 5).get_xdata()


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_genes_are_ranked_on_others_and_scored_on_those_shown(scores):
    ax = pl.rank_genes(scores, shown="p2", model="ridge", n_genes=3)
    assert names(ax) == get.top_genes(scores, 3, shown="p2", model="ridge")
    own = scores[(scores["model"] == "ridge") & (scores["patient"] == "p2")].set_index("gene")["pearson"]
    np.testing.assert_allclose(means(ax), own[names(ax)])
    assert ax.get_title(loc="left") == "ridge\nranked on p1, shown on p2"
    assert ax.get_legend().get_texts()[0].get_text() == "one section"


def test_the_same_patients_on_both_sides_are_marked(scores):
    ax = pl.rank_genes(scores, model="ridge")
    assert ax.get_title(loc="left") == "ridge\npicked on the patients shown: too good"
    per_patient = scores[scores["model"] == "ridge"].groupby(["gene", "patient"])["pearson"].mean()
    np.testing.assert_allclose(means(ax), per_patient.groupby("gene").mean()[names(ax)])
    assert "over patients" in ax.get_legend().get_texts()[0].get_text()
    # The interval of two patients lies between them, and the ceiling is drawn at its height.
    low, high = np.array(ax.collections[0].get_segments())[..., 0].T
    both = per_patient.unstack().loc[names(ax)]
    np.testing.assert_allclose([low, high], [both.min(axis=1), both.max(axis=1)])
    ceiling = next(line for line in ax.lines if line.get_label() == "noise ceiling")
    np.testing.assert_allclose(ceiling.get_xdata(), [{"A": 0.6, "B": 0.7, "C": 0.8, "D": 0.9}[g] for g in names(ax)])


def test_models_that_were_trained_on_those_shown_are_named(scores):
    more = pd.concat([scores, scores[scores["patient"] == "p2"].assign(patient="p3", sample="p3a")])
    more.attrs["keys"] = {}
    title = pl.rank_genes(more, shown="p1", model="ridge").get_title(loc="left")
    assert title == "ridge\nranked on p2, p3 by models that saw those shown,\nshown on p1"


def test_genes_of_ones_own_say_nothing_of_a_ranking(scores):
    assert pl.rank_genes(scores, ["D", "A"], model="ridge", shown="p1").get_title(loc="left") == "ridge\nshown on p1"
    genes = get.top_genes(scores, 2, shown="p1", model="ridge")
    assert pl.rank_genes(scores, genes, shown="p1").get_title(loc="left") == "ridge\nranked on p2, shown on p1"
    assert "picked" in pl.rank_genes(scores, genes, shown="p2").get_title(loc="left")
    assert pl.rank_genes(scores, model="net").get_title(loc="left").startswith("net (leaky)\n")


def test_one_section_has_no_interval(scores):
    ax = pl.rank_genes(scores[scores["sample"] != "p1a"], shown="p1", model="ridge")
    assert ax.get_legend().get_texts()[0].get_text() == "one section"
    assert all(len(segment) == 0 for segment in ax.collections[0].get_segments())  # no bounds, nothing drawn


def test_errors(scores):
    with pytest.raises(KeyError, match="found none of Z"):
        pl.rank_genes(scores, ["A", "Z"])
    with pytest.raises(ValueError, match="more than once"):
        pl.rank_genes(scores, ["A", "A"])
    with pytest.raises(ValueError, match="to rank the genes on"):
        pl.rank_genes(scores, shown=["p1", "p2"])
    with pytest.raises(TypeError, match="table"):
        pl.rank_genes("scores")


def test_maps_of_genes_that_were_picked_there_say_so(adata):
    there = RankedGenes(["A", "B"], ["P1 "], "pearson", "ridge")
    elsewhere = RankedGenes(["A", "B"], ["p2"], "pearson", "ridge")

    def titles(genes):
        return [ax.get_title() for ax in pl.genes(adata, genes, sample="s1").ravel()]

    assert any("picked here" in title for title in titles(there))
    assert not any("picked here" in title for genes in (elsewhere, ["A", "B"]) for title in titles(genes))
