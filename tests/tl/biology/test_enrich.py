from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, hypergeom, ttest_ind

import stpredict as stp

BACKGROUND = [f"g{i}" for i in range(200)]
SETS = {f"t{i}": BACKGROUND[i * 10 : i * 10 + 12] for i in range(15)} | {"other": ["x", "y", *BACKGROUND[:6]]}


def test_equals_scipy() -> None:
    lists = {"a": BACKGROUND[:15], "b": BACKGROUND[40:70:3], "none": []}
    table = stp.tl.enrich(lists, SETS, background=BACKGROUND)
    assert len(table) == 3 * len(SETS)
    for name, genes in lists.items():
        part = table[table["list"] == name].set_index("term")
        assert part["p"].is_monotonic_increasing
        for term, members in SETS.items():
            inside = set(members) & set(BACKGROUND)
            hits = len(inside & set(genes))
            assert part.loc[term, ["hits", "size", "n_genes"]].tolist() == [hits, len(inside), len(genes)]
            p = hypergeom.sf(hits - 1, 200, len(inside), len(genes))
            assert part.loc[term, "p"] == pytest.approx(p, rel=1e-12)
            assert part.loc[term, "expected"] == pytest.approx(len(inside) * len(genes) / 200)
            assert set(filter(None, part.loc[term, "genes"].split(";"))) == inside & set(genes)
        np.testing.assert_allclose(part["q"], false_discovery_control(part["p"]))
    assert table.attrs == {
        "n_background": 200, "background": "as passed", "n_terms": 16, "n_given": 16, "n_left_out": 0,
    }  # fmt: skip


def test_the_background_decides() -> None:
    """Against the genes that could be chosen nothing is enriched, against all others everything is."""
    panel = BACKGROUND[:30]
    genes = panel[::2]
    sets = {"panel": panel}
    fair = stp.tl.enrich(genes, sets, background=panel)
    unfair = stp.tl.enrich(genes, sets, background=BACKGROUND)
    assert fair["p"].item() == 1
    assert unfair["p"].item() < 1e-10
    annotated = stp.tl.enrich([*genes, "unknown"], sets, background="annotated")
    assert annotated["p"].item() == 1
    assert annotated.attrs["n_left_out"] == 1
    with pytest.raises(ValueError, match="expected `background=`"):
        stp.tl.enrich(genes, sets)


def test_table_of_well_predicted() -> None:
    table = pd.DataFrame({"gene": BACKGROUND, "well_predicted": np.arange(200) < 12})
    found = stp.tl.enrich(table, SETS, control=False)
    expected = stp.tl.enrich(BACKGROUND[:12], SETS, background=BACKGROUND)
    pd.testing.assert_frame_equal(found.drop(columns="list"), expected.drop(columns="list"))
    assert found.attrs["background"] == "genes of the table"


def test_badly_predicted_genes_stand_beside_well_predicted_ones() -> None:
    """As many as are well predicted, from the bottom; constant genes are not among them."""
    pearson = np.where(np.arange(200) < 12, 0.9, np.linspace(0.5, -0.5, 200))
    pearson[195:] = np.nan
    table = pd.DataFrame({"gene": BACKGROUND, "well_predicted": np.arange(200) < 12, "pearson": pearson})
    found = stp.tl.enrich(table, SETS)
    lists = {"well predicted": BACKGROUND[:12], "badly predicted": BACKGROUND[194:182:-1]}
    expected = stp.tl.enrich(lists, SETS, background=BACKGROUND)
    pd.testing.assert_frame_equal(found, expected, check_flags=False)
    assert found.groupby("list")["n_genes"].first().to_dict() == {"well predicted": 12, "badly predicted": 12}
    groups = pd.concat(
        [table.assign(er="pos"), table.assign(er="neg", well_predicted=table["well_predicted"][::-1].values)]
    )
    with pytest.raises(ValueError, match="each gene of the table once"):
        stp.tl.enrich(groups, SETS)
    both = stp.tl.enrich(groups, SETS, groupby="er")
    groups.attrs["groupby"] = "er"
    pd.testing.assert_frame_equal(stp.tl.enrich(groups, SETS), both)
    with pytest.raises(KeyError, match="column 'pr'"):
        stp.tl.enrich(groups, SETS, groupby="pr")
    names = ["well predicted, pos", "badly predicted, pos", "well predicted, neg", "badly predicted, neg"]
    assert list(dict.fromkeys(both["list"])) == names
    part = both[both["list"] == "badly predicted, pos"].drop(columns="list").reset_index(drop=True)
    alone = found[found["list"] == "badly predicted"].drop(columns="list").reset_index(drop=True)
    pd.testing.assert_frame_equal(part, alone, check_flags=False)
    assert both.attrs["n_background"] == 200


@pytest.fixture
def maps() -> ad.AnnData:
    """Two domains of 40 spots; genes 0-11 (the first set) are higher in the first, 20-31 in the second."""
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.normal(size=(100, 200)), var=pd.DataFrame(index=BACKGROUND))
    adata.obs["domain"] = pd.Categorical(np.repeat(["a", "b", None], [40, 40, 20]))
    adata.X[:40, :12] += 2
    adata.X[40:80, 20:32] += 2
    adata.obsm["predicted"] = adata.to_df()
    return adata


def test_markers_of_domains(maps, frozen) -> None:
    before = frozen(maps)
    table = stp.tl.enrich(maps, SETS, groupby="domain")
    assert frozen(maps) == before
    first = table.groupby("list").first()
    assert first["term"].to_dict() == {"a": "t0", "b": "t2"}
    x = maps.X
    t, p = ttest_ind(x[:40], x[40:80], equal_var=False)
    marker = (false_discovery_control(p) < 0.05) & (t > 0)
    assert first.loc["a", "n_genes"] == marker.sum()
    same = stp.tl.enrich(maps, SETS, groupby="domain", use="measured")
    pd.testing.assert_frame_equal(same, table)
    short = stp.tl.enrich(maps, SETS, groupby="domain", n_top=5)
    assert short["n_genes"].max() == 5
    assert set(short["genes"][short["list"] == "a"].iloc[0].split(";")) == {BACKGROUND[i] for i in np.argsort(-t)[:5]}


def test_one_term_stands_for_those_that_hit_the_same_genes() -> None:
    same = BACKGROUND[:10]
    sets = {"best": same, "same": [*same, "g50"], "part": [*same[:6], *BACKGROUND[60:70]], "apart": BACKGROUND[100:110]}
    genes = [*same, *BACKGROUND[100:108]]
    table = stp.tl.enrich(genes, sets, background=BACKGROUND).set_index("term")
    assert table["representative"].to_dict() == {"best": "best", "same": "best", "part": "best", "apart": "apart"}
    assert table["stands_for"].to_dict() == {"best": 2, "same": 0, "part": 0, "apart": 0}
    table = stp.tl.enrich(genes, sets, background=BACKGROUND, merge=0.9).set_index("term")
    assert table["representative"].to_dict() == {"best": "best", "same": "best", "part": "part", "apart": "apart"}
    table = stp.tl.enrich(genes[:1], sets, background=BACKGROUND, alpha=0.001)
    assert table["representative"].isna().all()


def test_twenty_thousand_genes_at_once() -> None:
    """Lists are tested together: the distribution is asked once for each triple of numbers."""
    genes = [f"g{i}" for i in range(20_000)]
    rng = np.random.default_rng(0)
    sets = {f"t{i}": rng.choice(genes, 50, replace=False) for i in range(300)}
    lists = {f"l{i}": genes[i::40] for i in range(20)}
    table = stp.tl.enrich(lists, sets, background=genes)
    assert len(table) == 6000
    assert 0.3 < table["p"].mean() < 0.9


BAD = {
    "text": (lambda a: stp.tl.enrich("g1", SETS, background=BACKGROUND), TypeError, "found str"),
    "nested": (lambda a: stp.tl.enrich({"a": "g1"}, SETS, background=BACKGROUND), TypeError, "genes of 'a'"),
    "outside": (lambda a: stp.tl.enrich(["z"], SETS, background=BACKGROUND), ValueError, "found z outside"),
    "empty": (lambda a: stp.tl.enrich([], SETS, background=BACKGROUND), ValueError, "at least one list"),
    "kind": (
        lambda a: stp.tl.enrich(["ENSG00000141736"], {"t": ["ERBB2"]}, background="annotated", min_size=1),
        ValueError, "Ensembl genes .*human symbols",
    ),
    "known": (lambda a: stp.tl.enrich(a, SETS, groupby="domain", background=BACKGROUND), ValueError, "is known"),
    "groupby": (lambda a: stp.tl.enrich(a, SETS), ValueError, "stp.tl.domains"),
    "column": (lambda a: stp.tl.enrich(a, SETS, groupby="leiden"), KeyError, "leiden"),
    "one group": (lambda a: stp.tl.enrich(a[:40].copy(), SETS, groupby="domain"), ValueError, "a: 40"),
    "table": (lambda a: stp.tl.enrich(pd.DataFrame({"gene": ["g1"]}), SETS), KeyError, "without well_predicted"),
    "merge": (lambda a: stp.tl.enrich(["g1"], SETS, background=BACKGROUND, merge=0), ValueError, "merge above 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_errors(maps, case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call(maps)
