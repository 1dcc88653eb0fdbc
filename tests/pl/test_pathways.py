from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.pl._terms import shown_terms

BACKGROUND = [f"g{i}" for i in range(200)]
SETS = {f"HALLMARK_T_{i}": BACKGROUND[i * 10 : i * 10 + 12] for i in range(15)}


@pytest.fixture
def table() -> pd.DataFrame:
    lists = {"first": BACKGROUND[:12], "second": [*BACKGROUND[20:29], *BACKGROUND[:4]], "none": BACKGROUND[180:]}
    return stp.tl.enrich(lists, SETS, background=BACKGROUND)


def test_dots_are_shares_and_rates(table) -> None:
    ax = stp.pl.enrichment(table, n_terms=2)
    dots = ax.collections[0]
    terms = [text.get_text() for text in ax.get_yticklabels()]
    lists = [text.get_text() for text in ax.get_xticklabels()]
    assert lists == ["first", "second", "none"]
    assert terms == ["0", "2"]
    shown = table[table["term"].isin(["HALLMARK_T_0", "HALLMARK_T_2"]) & (table["hits"] > 0)]
    assert len(dots.get_offsets()) == len(shown)
    for (x, y), area, color, width in zip(
        dots.get_offsets(), dots.get_sizes(), dots.get_array(), dots.get_linewidths(), strict=True
    ):
        row = shown[(shown["list"] == lists[int(x)]) & shown["term"].str.endswith(f"_{terms[int(y)]}")].iloc[0]
        share = row["hits"] / row["size"]
        assert area / dots.get_sizes().max() == pytest.approx(share / (shown["hits"] / shown["size"]).max())
        assert color == pytest.approx(-np.log10(row["q"]))
        assert (width > 0.5) == (row["q"] < 0.05)


def test_terms_that_are_represented_are_left_out() -> None:
    sets = {"best": BACKGROUND[:10], "same": BACKGROUND[:11]}
    table = stp.tl.enrich(BACKGROUND[:10], sets, background=BACKGROUND)
    for merged, names in ((True, ["best (+1)"]), (False, ["best", "same"])):
        assert [t.get_text() for t in stp.pl.enrichment(table, merged=merged).get_yticklabels()] == names


def test_names_of_terms() -> None:
    assert shown_terms(["HALLMARK_MYC_TARGETS_V1", "HALLMARK_HYPOXIA"]) == ["MYC TARGETS V1", "HYPOXIA"]
    assert shown_terms(["protein folding (GO:0051084)", "Ribosome Homo sapiens hsa03010"]) == [
        "protein folding",
        "Ribosome",
    ]
    assert shown_terms(["x" * 60], 10) == ["x" * 9 + "…"]
    alike = [f"regulation of the same long process, part {name}" for name in ("one", "two")]
    assert shown_terms(alike, 30) == ["regulation of…ocess, part one", "regulation of…ocess, part two"]
    assert shown_terms(["A_B"]) == ["A B"]


@pytest.fixture
def scored() -> ad.AnnData:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.normal(size=(60, 2)))
    adata.obs["domain"] = pd.Categorical(np.repeat(["b", "a", None], 20), categories=["b", "a"])
    for slot in ("pathways", "pathways_measured"):
        adata.obsm[slot] = rng.normal(size=(60, 3)) + (adata.obs["domain"] == "a").to_numpy()[:, None] * 3
        adata.uns[f"{slot}_names"] = np.array(["one", "two", "three"])
    return adata


def test_violins_in_standard_deviations(scored) -> None:
    figure = stp.pl.pathways(scored, "domain", ["two", "one"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["two", "one"]
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["b", "a"]
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert len(medians) == 4
    values = scored.obsm["pathways"][:40, 1]
    z = (values - values.mean()) / values.std()
    assert medians[:2] == pytest.approx([np.median(z[:20]), np.median(z[20:])])
    alone = stp.pl.pathways(scored, "domain", "one", measured=None)
    assert sum(line.get_marker() == "o" for line in alone.axes[0].lines) == 2
    assert not alone.legends
    assert len(figure.legends) == 1


def test_agreement_beside_random_sets() -> None:
    table = pd.DataFrame(
        {
            "pathway": ["a", "b", "c"], "r": [0.8, 0.6, np.nan], "r_low": [0.7, np.nan, np.nan], "r_high": [0.9, np.nan, np.nan],
            "null_mean": 0.5, "null_high": 0.65, "q": [0.01, 0.2, 1.0], "leaky": False,
        }
    )  # fmt: skip
    ax = stp.pl.pathway_agreement(table)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_title(loc="left") == "1 of 2 better than random sets"
    assert stp.pl.pathway_agreement(table.assign(leaky=True)).get_title(loc="left").endswith("(leaky)")


def test_errors(table, scored) -> None:
    with pytest.raises(KeyError, match="without q"):
        stp.pl.enrichment(table.drop(columns="q"))
    with pytest.raises(ValueError, match="nothing is over-represented"):
        stp.pl.enrichment(table, alpha=1e-300)
    with pytest.raises(ValueError, match="n_terms"):
        stp.pl.enrichment(table, n_terms=0)
    with pytest.raises(KeyError, match="'scores'.*stp.tl.pathway_scores"):
        stp.pl.pathways(scored, "domain", scores="scores")
    with pytest.raises(KeyError, match="found four"):
        stp.pl.pathways(scored, "domain", "four")
    with pytest.raises(KeyError, match="leiden"):
        stp.pl.pathways(scored, "leiden")
    with pytest.raises(KeyError, match="stp.tl.pathway_agreement"):
        stp.pl.pathway_agreement(table)
    scored.obs["domain"] = None
    with pytest.raises(ValueError, match="found none"):
        stp.pl.pathways(scored, "domain")
