from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as stp

BACKGROUND = [f"g{i}" for i in range(200)]
SETS = {"one": BACKGROUND[:12], "other": BACKGROUND[10:25], "same": BACKGROUND[:13], "far": BACKGROUND[100:110]}
SCORES = {gene: 0.2 + 0.01 * i for i, gene in enumerate(BACKGROUND)}


@pytest.fixture
def table() -> pd.DataFrame:
    return stp.tl.enrich({"well": BACKGROUND[:20], "badly": BACKGROUND[100:108]}, SETS, background=BACKGROUND)


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_genes_with_the_highest_scores_and_terms_that_stand_for_others(table) -> None:
    ax = stp.pl.gene_pathways(table, SCORES, n_genes=3)
    labels = texts(ax)
    assert "same (+1)  13 of 13 genes, 3 drawn" in labels
    assert "other  10 of 15 genes, 3 drawn" in labels
    assert not [label for label in labels if label.startswith("one")]
    assert sorted(label for label in labels if label.startswith("g")) == ["g10", "g11", "g12", "g17", "g18", "g19"]
    assert len(ax.patches) == 6
    # Widths are proportional to the score.
    widths = sorted({round(patch.get_linewidth(), 6) for patch in ax.patches})
    expected = sorted(
        {round(3.2 * SCORES[gene] / SCORES["g19"], 6) for gene in ("g10", "g11", "g12", "g17", "g18", "g19")}
    )
    np.testing.assert_allclose(widths, expected)
    both = stp.pl.gene_pathways(table, SCORES, n_genes=20, merged=False)
    assert "one  12 of 12 genes" in texts(both)
    assert len(both.patches) == 12 + 13 + 10


def test_a_table_of_scores_and_another_list(table) -> None:
    scores = pd.DataFrame({"gene": [*BACKGROUND, "g100"], "pearson": [*SCORES.values(), 9.0]})
    ax = stp.pl.gene_pathways(table, scores, list_name="badly", n_genes=1)
    assert ax.get_title(loc="left") == "badly"
    assert texts(ax) == ["g100", "far  8 of 10 genes, 1 drawn"]


def test_links_cross_as_little_as_they_must() -> None:
    """Three sets without genes in common are drawn without a crossing, in whatever order they come."""
    sets = {name: BACKGROUND[start : start + 10] for name, start in (("a", 0), ("b", 10), ("c", 20))}
    lists = [gene for pair in zip(*sets.values(), strict=True) for gene in pair]
    ax = stp.pl.gene_pathways(stp.tl.enrich(lists, sets, background=BACKGROUND), n_genes=10)
    ends = np.array([patch.get_path().vertices[[0, 3], 1] for patch in ax.patches])
    order = np.argsort(ends[:, 0])
    assert (np.diff(ends[order, 1]) >= 0).all()


def test_links_are_dark_enough_on_white() -> None:
    from matplotlib.colors import to_rgb

    sets = {f"set{i}": BACKGROUND[10 * i : 10 * i + 10] for i in range(12)}
    table = stp.tl.enrich(BACKGROUND[:120], sets, background=BACKGROUND)
    ax = stp.pl.gene_pathways(table, n_terms=12, alpha=1.1)
    colors = {patch.get_edgecolor()[:3] for patch in ax.patches}
    assert len(colors) == 12
    assert max(np.dot(to_rgb(color), (0.299, 0.587, 0.114)) for color in colors) < 0.75


BAD = {
    "table": (lambda t: stp.pl.gene_pathways(t.drop(columns="genes")), KeyError, "without genes"),
    "list": (lambda t: stp.pl.gene_pathways(t, list_name="x"), KeyError, "found 'x'"),
    "alpha": (lambda t: stp.pl.gene_pathways(t, alpha=1e-30), ValueError, "the smallest is"),
    "number": (lambda t: stp.pl.gene_pathways(t, n_genes=0), ValueError, "found 8 and 0"),
    "scores": (lambda t: stp.pl.gene_pathways(t, pd.DataFrame({"gene": ["g1"]})), KeyError, "called pearson"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(table, case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call(table)
