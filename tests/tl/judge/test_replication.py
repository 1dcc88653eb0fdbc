from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom, poisson_binom

import stpredict as stp

GENES = np.array([f"G{i}" for i in range(400)])


def cohorts(rates, *, same: float = 0.0, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Verdicts at some rates; a share of the genes holds in all cohorts."""
    rng = np.random.default_rng(seed)
    everywhere = np.arange(400) < same * 400
    tables = {}
    for name, rate in rates.items():
        holds = (rng.random(400) < rate) | everywhere
        order = rng.permutation(400)
        tables[name] = pd.DataFrame({"gene": GENES[order], "well_predicted": holds[order], "leaky": False})
    return tables


def test_counts_of_genes_and_cohorts() -> None:
    tables = cohorts({"a": 0.5, "b": 0.3, "c": 0.1})
    found = stp.tl.replication(tables)
    verdict = pd.concat({k: t.set_index("gene")["well_predicted"] for k, t in tables.items()}, axis=1)
    genes = found.genes.set_index("gene")
    assert (genes["n_holds"] == verdict.sum(axis=1).reindex(genes.index)).all()
    assert genes["n_holds"].is_monotonic_decreasing
    rates = verdict.mean().to_numpy()
    assert found.cohorts["rate"].tolist() == pytest.approx(rates.tolist())
    for n in range(4):
        here = genes[genes["n_holds"] == n]
        np.testing.assert_allclose(here["p"], poisson_binom.sf(n - 1, rates))
        observed = (verdict.sum(axis=1) >= n).sum()
        if n:
            row = found.counts.set_index("at_least").loc[n]
            assert row["observed"] == observed
            assert row["expected"] == pytest.approx(400 * poisson_binom.sf(n - 1, rates))
    first = genes[genes["n_holds"] == 2].index[0]
    assert genes.loc[first, "holds_in"] == ";".join(verdict.columns[verdict.loc[first]])
    assert found.leaky is False


def test_two_cohorts_are_hypergeometric() -> None:
    """Of the genes that both judged, whatever else either has."""
    tables = cohorts({"a": 0.4, "b": 0.2}, same=0.1)
    tables["a"] = tables["a"].set_index("gene").loc[GENES[:300]].reset_index()
    row = stp.tl.replication(tables).counts.set_index("at_least").loc[2]
    a, b = (t.set_index("gene")["well_predicted"].loc[GENES[:300]].to_numpy() for t in tables.values())
    assert row["observed"] == (a & b).sum()
    assert row["expected"] == pytest.approx(a.sum() * b.sum() / 300)
    assert row["p"] == pytest.approx(hypergeom.sf((a & b).sum() - 1, 300, a.sum(), b.sum()))
    assert row["p"] < 0.01  # 40 of the genes hold everywhere


def test_independent_verdicts_come_out_as_expected() -> None:
    """Over 40 draws the observed number of genes is the expected one, and p-values are not small too often."""
    counts = pd.concat(
        stp.tl.replication(cohorts({"a": 0.5, "b": 0.3, "c": 0.3}, seed=seed)).counts.query("at_least == 3")
        for seed in range(40)
    )
    assert counts["observed"].mean() == pytest.approx(counts["expected"].mean(), rel=0.08)
    assert (counts["p"] < 0.05).mean() <= 0.125
    same = stp.tl.replication(cohorts({"a": 0.3, "b": 0.3, "c": 0.3}, same=0.1))
    assert same.counts["fold"].iloc[-1] > 2  # (40 + 360 × .027) genes against 400 × .37³: 2.5
    assert set(same.genes["gene"][same.genes["q"] < 0.5]) >= set(GENES[:40])


def test_scores_of_slides() -> None:
    """Slides of one model, by a score; what is undefined was not judged."""
    rng = np.random.default_rng(0)
    rows = [(f"s{s}", g, rng.normal(0.2, 0.2)) for s in range(15) for g in GENES[:50]]
    table = pd.DataFrame(rows, columns=["sample", "gene", "pearson"]).assign(model="net", leaky=True)
    table.loc[:9, "pearson"] = np.nan
    found = stp.tl.replication(table, by="sample", column="pearson", above=0.3)
    assert found.genes.set_index("gene")["n_tested"].loc[[*GENES[:11]]].tolist() == [14] * 10 + [15]
    assert found.cohorts["n_tested"].tolist() == [40] + [50] * 14
    assert "holds_in" not in found.genes
    assert found.leaky is True
    holds = (table["pearson"] > 0.3).groupby(table["gene"]).sum()
    assert found.genes.set_index("gene")["n_holds"].sort_index().tolist() == holds.sort_index().tolist()


def test_groups_of_a_table_are_cohorts() -> None:
    table = pd.concat(part.assign(er=name) for name, part in cohorts({"neg": 0.2, "pos": 0.4}).items())
    named = stp.tl.replication(table, by="er")
    table.attrs["groupby"] = "er"
    pd.testing.assert_frame_equal(stp.tl.replication(table).genes, named.genes)
    assert named.cohorts["cohort"].tolist() == ["neg", "pos"]


def test_constant_genes_were_not_judged() -> None:
    tables = cohorts({"a": 0.5, "b": 0.5})
    for part in tables.values():
        part["pearson"] = np.where(part["gene"] == "G3", np.nan, 0.5)
    assert "G3" not in set(stp.tl.replication(tables).genes["gene"])


TWO = cohorts({"a": 0.5, "b": 0.5})
BAD = {
    "one": (lambda: stp.tl.replication({"a": TWO["a"]}), ValueError, "at least two cohorts .* found a"),
    "none": (lambda: stp.tl.replication({}), ValueError, "found none"),
    "list": (lambda: stp.tl.replication(list(TWO.values())), TypeError, "found list"),
    "what": (lambda: stp.tl.replication({"a": TWO["a"], "b": 3}), TypeError, "'b'; found int"),
    "by": (lambda: stp.tl.replication(TWO["a"]), ValueError, "expected `by=`"),
    "column": (lambda: stp.tl.replication(TWO, column="beats"), KeyError, "'a'; found none called beats"),
    "twice": (
        lambda: stp.tl.replication({"a": TWO["a"], "b": pd.concat([TWO["b"]] * 2)}), ValueError, "found several",
    ),
    "score": (lambda: stp.tl.replication(TWO, above=0.3), TypeError, "expected a score"),
    "verdict": (
        lambda: stp.tl.replication({k: t.assign(r=0.2) for k, t in TWO.items()}, column="r"), TypeError, "pass `above=`",
    ),
    "models": (
        lambda: stp.tl.replication(pd.concat(t.assign(model=k, er=k) for k, t in TWO.items()), by="er"),
        ValueError, "one model; found a, b",
    ),
    "empty": (
        lambda: stp.tl.replication({k: t.assign(pearson=np.nan) for k, t in TWO.items()}), ValueError, "found none in a, b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_errors(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()
