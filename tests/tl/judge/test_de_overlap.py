from __future__ import annotations

import anndata as ad
import gseapy
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import false_discovery_control, ttest_ind

import stpredict as stp
from stpredict.core._gmt import read_gmt
from stpredict.metrics._over_representation import over_representation

N_SETS, SIZE = 12, 10
SETS = {f"term{i}": [f"g{j}" for j in range(i * SIZE, (i + 1) * SIZE)] for i in range(N_SETS)}
LOOSE = {"check_names": False, "rtol": 1e-9}


@pytest.fixture
def maps() -> ad.AnnData:
    """Two sections, 400 spots, 120 genes in 12 sets; sets 0 and 1 are higher in the group, set 2 is lower."""
    rng = np.random.default_rng(0)
    x, y = np.tile(np.mgrid[:20, :10].reshape(2, -1), 2)
    in_group = x < 8
    truth = rng.normal(3, 1, (400, N_SETS * SIZE))
    truth[np.ix_(in_group, np.arange(20))] += 1.5
    truth[np.ix_(in_group, np.arange(20, 30))] -= 1.5
    for i in range(3, N_SETS):  # the others vary together over the section, along y
        truth[:, i * SIZE : (i + 1) * SIZE] += np.sin(y / 3 + i)[:, None]
    adata = ad.AnnData(truth.astype(np.float32), var=pd.DataFrame(index=[f"g{i}" for i in range(120)]))
    adata.obs["sample"] = np.repeat(["s1", "s2"], 200)
    adata.obs["domain"] = np.where(in_group, "a", np.where(x < 16, "b", "c"))
    adata.obsm["spatial"] = np.column_stack([x, y]) * 50.0
    guess = pd.DataFrame(truth * 0.5 + rng.normal(0, 0.3, truth.shape), adata.obs_names, adata.var_names)
    adata.obsm["predicted"] = guess.iloc[:, ::-1].assign(unmeasured=1.0)
    return adata


def test_genes_against_scipy(maps) -> None:
    found = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, reference="b", n_permutations=3).genes
    a, b = (maps.obs["domain"] == name for name in "ab")
    table = found.set_index("gene").loc[maps.var_names]
    for side, values in (("measured", maps.to_df()), ("predicted", maps.obsm["predicted"][maps.var_names])):
        values = values.astype(float)
        t, p = ttest_ind(values[a], values[b], equal_var=False)
        np.testing.assert_allclose(table[f"t_{side}"], t, rtol=1e-6)
        np.testing.assert_allclose(table[f"p_{side}"], p, rtol=1e-5)
        np.testing.assert_allclose(table[f"q_{side}"], false_discovery_control(p), rtol=1e-5)
        np.testing.assert_allclose(table[f"difference_{side}"], values[a].mean() - values[b].mean(), rtol=1e-6)


def test_terms_against_gseapy(maps) -> None:
    found = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, n_permutations=3)
    genes = found.genes
    up = genes.loc[(genes["q_measured"] < 0.01) & (genes["t_measured"] > 0), "gene"].tolist()
    reference = gseapy.enrich(up, SETS, background=genes["gene"].tolist(), outdir=None).results.set_index("Term")
    ours = found.terms[found.terms["direction"] == "up"].set_index("term")
    np.testing.assert_allclose(ours.loc[reference.index, "p_measured"], reference["P-value"], rtol=1e-8, atol=1e-300)
    hits = reference["Overlap"].str.split("/").str[0].astype(int)
    assert ours.loc[reference.index, "hits_measured"].tolist() == hits.tolist()
    assert ours["hits_measured"].drop(reference.index).eq(0).all()


def test_shared_pathways_are_found_and_beat_the_null(maps) -> None:
    found = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS)
    table = found.overlap.set_index("direction")
    assert table.loc["up", ["n_terms_measured", "n_shared", "overlap"]].tolist() == [2, 2, 1]
    assert table.loc["down", ["n_terms_measured", "n_shared", "overlap"]].tolist() == [1, 1, 1]
    assert (table["p"] < 0.1).all()
    assert (table["null_mean"] < 0.2).all()
    turned = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, null="rotation").overlap.set_index("direction")
    assert (turned["null_mean"] > table["null_mean"]).all()
    assert (turned["null_mean"] < 0.6).all()
    assert table["n_background"].eq(120).all()
    enriched = found.terms[found.terms["q_predicted"] < 0.05]
    assert enriched[["direction", "term"]].to_numpy().tolist() == [["up", "term0"], ["up", "term1"], ["down", "term2"]]


def test_a_prediction_of_other_genes_does_not_beat_the_null(maps) -> None:
    maps.obsm["predicted"] = maps.obsm["predicted"].sample(frac=1, random_state=0).set_axis(maps.obs_names)
    found = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, n_permutations=50).overlap
    assert (found["p"] > 0.1).all()


def test_null_takes_as_many_genes(maps) -> None:
    """With every gene chosen nothing is enriched; `n_top` keeps the sets apart."""
    found = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, n_top=10, n_permutations=20).overlap
    assert found["n_genes_predicted"].tolist() == [10, 10]


@pytest.mark.parametrize("null", ["rotation", "shuffle"])
def test_down_in_a_group_is_up_in_the_others(maps, null: str) -> None:
    maps.obs["tumor"] = np.where(maps.obs["domain"] == "a", "yes", "no")
    options = {"gene_sets": SETS, "n_permutations": 20, "null": null, "n_top": 10}
    one = stp.tl.de_overlap(maps, "tumor", "yes", reference="no", **options).overlap.set_index("direction")
    two = stp.tl.de_overlap(maps, "tumor", "no", reference="yes", **options).overlap.set_index("direction")
    # The turned map of a section does not depend on what the labels are called.
    pd.testing.assert_frame_equal(one.loc[["down", "up"]], two.loc[["up", "down"]].set_axis(["down", "up"]), **LOOSE)


def test_genes_are_chosen_by_their_false_discovery_rate(maps) -> None:
    found = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, alpha=0.2, n_permutations=3)
    genes, counts = found.genes, found.overlap.set_index("direction")["n_genes_measured"]
    assert ((genes["p_measured"] < 0.2) & (genes["q_measured"] >= 0.2)).sum() > 3
    assert counts["up"] == ((genes["q_measured"] < 0.2) & (genes["t_measured"] > 0)).sum()
    assert counts["down"] == ((genes["q_measured"] < 0.2) & (genes["t_measured"] < 0)).sum()


def test_bounds_of_sizes_are_within(maps) -> None:
    options = {"gene_sets": SETS | {"big": list(maps.var_names[:11])}, "n_permutations": 1}
    for sizes, terms in (((10, 10), 12), ((10, 11), 13), ((11, 11), 1)):
        found = stp.tl.de_overlap(maps, "domain", "a", min_size=sizes[0], max_size=sizes[1], **options)
        assert found.overlap["n_terms"].eq(terms).all()


def test_no_term_is_undefined(maps) -> None:
    maps.X = np.random.default_rng(0).normal(size=maps.shape).astype(np.float32)
    found = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, n_permutations=3).overlap
    assert found["n_terms_measured"].eq(0).all()
    assert found[["overlap", "null_mean", "p"]].isna().all(axis=None)


def test_enrichment_of_many_draws_is_that_of_each() -> None:
    rng = np.random.default_rng(0)
    member, chosen = rng.random((5, 60)) < 0.3, rng.random((7, 60)) < 0.4
    hits, p = over_representation(member, chosen)
    for i in range(7):
        one = over_representation(member, chosen[i : i + 1])
        np.testing.assert_array_equal(one[0][0], hits[i])
        np.testing.assert_allclose(one[1][0], p[i])


def test_sparse_constant_genes_and_gaps(maps) -> None:
    maps.X[:, 5] = 3.1
    maps.obs["in_tissue"] = np.arange(400) > 4
    maps.obsm["predicted"].iloc[20:30] = np.nan
    maps.obs.loc[maps.obs_names[40:50], "domain"] = None
    dense = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, n_permutations=5)
    maps.X = sparse.csr_matrix(maps.X)
    loose = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, n_permutations=5)
    pd.testing.assert_frame_equal(dense.genes, loose.genes)
    pd.testing.assert_frame_equal(dense.overlap, loose.overlap)
    constant = dense.genes.set_index("gene").loc["g5"]
    assert np.isnan(constant["t_measured"])
    assert constant["q_measured"] == 1


def test_genes_that_some_folds_did_not_choose_are_left_out(maps) -> None:
    few = maps.copy()
    few.obsm["predicted"] = maps.obsm["predicted"][[f"g{i}" for i in range(119)]]
    maps.obsm["predicted"].loc[maps.obs_names[:200], "g119"] = np.nan
    with pytest.warns(UserWarning, match="1 of 121 genes .* were not predicted in all observations"):
        found = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, n_permutations=3)
    expected = stp.tl.de_overlap(few, "domain", "a", gene_sets=SETS, n_permutations=3)
    pd.testing.assert_frame_equal(found.overlap, expected.overlap)
    assert "g119" not in set(found.genes["gene"])


def test_boolean_groups_and_gmt(maps, tmp_path) -> None:
    maps.obs["tumor"] = (maps.obs["domain"] == "a").to_numpy()
    lines = [f"{term}\t\t" + "\t".join(f"{gene},1.0" for gene in genes) for term, genes in SETS.items()]
    (tmp_path / "sets.gmt").write_text("\n".join([*lines, "empty\tno genes"]))
    assert read_gmt(tmp_path / "sets.gmt") == SETS
    one = stp.tl.de_overlap(maps, "tumor", "True", gene_sets=tmp_path / "sets.gmt", n_permutations=3)
    two = stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, n_permutations=3)
    pd.testing.assert_frame_equal(one.overlap, two.overlap)


def test_object_is_left_as_it_was(maps, frozen) -> None:
    before = frozen(maps)
    stp.tl.de_overlap(maps, "domain", "a", gene_sets=SETS, n_permutations=3)
    assert frozen(maps) == before


BAD = {
    "groupby": ({"groupby": "leiden"}, KeyError, "leiden"),
    "group": ({"group": "z"}, KeyError, "'z'; choose among a, b, c"),
    "reference": ({"reference": "z"}, KeyError, "'z'"),
    "same": ({"reference": "a"}, ValueError, "'a' twice"),
    "key": ({"key": "none"}, KeyError, "stp.tl.predict"),
    "alpha": ({"alpha": 1.5}, ValueError, "alpha between"),
    "null": ({"null": "x"}, ValueError, "'x'"),
    "sets": ({"gene_sets": {"t": ["ABC"]}}, ValueError, "none of 1: 0 of the 1 names .*name genes the same way"),
    "type": ({"gene_sets": [["g1"]]}, TypeError, "list"),
    "file": ({"gene_sets": "none.gmt"}, FileNotFoundError, "none.gmt"),
    "spatial": ({"spatial_key": "xy", "null": "rotation"}, KeyError, "null='shuffle'"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(maps, case: str) -> None:
    options, error, message = BAD[case]
    options = {"groupby": "domain", "group": "a", "gene_sets": SETS} | options
    with pytest.raises(error, match=message):
        stp.tl.de_overlap(maps, **options)
