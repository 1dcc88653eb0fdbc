from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr

import stpredict as stp


@pytest.fixture
def bulk() -> ad.AnnData:
    """12 patients, two slides each, 40 genes of very different abundance; the prediction knows half of the genes."""
    rng = np.random.default_rng(0)
    abundance = rng.normal(4, 2, 40)
    own = rng.normal(0, 0.5, (12, 40))
    guess = abundance + np.where(np.arange(40) < 20, own, rng.normal(0, 0.5, own.shape)) + rng.normal(0, 0.2, own.shape)
    adata = ad.AnnData(guess.repeat(2, axis=0) + np.tile([[0.1], [-0.1]], (12, 1)))
    adata.layers["measured"] = (abundance + own).repeat(2, axis=0)
    adata.obs["patient"] = [f"p{i // 2:02d}" for i in range(24)]
    adata.var_names = [f"g{i}" for i in range(40)]
    return adata


def parts(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return tuple(table[table["kind"] == kind] for kind in ("across patients", "across genes"))


@pytest.mark.parametrize(("name", "reference"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_against_scipy(bulk, name: str, reference) -> None:
    genes, people = parts(stp.tl.pseudobulk_agreement(bulk, correlation=name))
    y, x = bulk.layers["measured"][::2], (bulk.X[::2] + bulk.X[1::2]) / 2
    expected = [reference(y[:, g], x[:, g]) for g in range(40)]
    np.testing.assert_allclose(genes["r"].astype(float), [e[0] for e in expected])
    np.testing.assert_allclose(genes["p"].astype(float), [e[1] for e in expected], rtol=1e-6)
    assert genes["n"].eq(12).all()
    assert people["r"].tolist() == pytest.approx([reference(y[i], x[i])[0] for i in range(12)])
    others = np.array([np.delete(y, i, axis=0).mean(axis=0) for i in range(12)])
    assert people["baseline"].tolist() == pytest.approx([reference(y[i], others[i])[0] for i in range(12)])
    y, x = y - y.mean(axis=0), x - x.mean(axis=0)
    assert people["r_centered"].tolist() == pytest.approx([reference(y[i], x[i])[0] for i in range(12)])
    assert people["p"].isna().all()


def test_abundance_alone_correlates_across_genes_and_not_across_patients(bulk) -> None:
    """A prediction without any knowledge of the patient: high across genes, nothing across patients."""
    rng = np.random.default_rng(1)
    y = bulk.layers["measured"]
    bulk.X = np.tile(y.mean(axis=0), (24, 1)) + rng.normal(0, 0.05, (12, 40)).repeat(2, axis=0)
    genes, people = parts(stp.tl.pseudobulk_agreement(bulk))
    assert people["r"].min() > 0.9
    assert abs(people["r"].mean() - people["baseline"].mean()) < 0.02
    assert abs(people["r_centered"].mean()) < 0.2
    assert abs(genes["r"].mean()) < 0.15
    assert (genes["q"] < 0.05).sum() <= 2


def test_genes_that_are_known_are_found(bulk) -> None:
    genes, _ = parts(stp.tl.pseudobulk_agreement(bulk))
    assert (genes["q"][:20] < 0.05).mean() > 0.9
    assert (genes["q"][20:] < 0.05).sum() <= 2


def test_training_mean_is_the_baseline_where_it_is_known(bulk) -> None:
    mean = np.linspace(0, 8, 40)
    bulk.layers["baseline_mean"] = np.tile(mean, (24, 1))
    _, people = parts(stp.tl.pseudobulk_agreement(bulk))
    assert set(people["baseline_of"]) == {"training mean"}
    assert people["baseline"].iloc[3] == pytest.approx(pearsonr(bulk.layers["measured"][6], mean)[0])


def test_given_truth_is_joined_by_name(bulk) -> None:
    y = pd.DataFrame(bulk.layers["measured"][::2], [f"p{i:02d}" for i in range(12)], bulk.var_names)
    whole = stp.tl.pseudobulk_agreement(bulk)
    del bulk.layers["measured"]
    mixed = y.iloc[::-1, ::-1].assign(other=1.0)
    pd.testing.assert_frame_equal(stp.tl.pseudobulk_agreement(bulk, mixed), whole)
    genes, people = parts(stp.tl.pseudobulk_agreement(bulk, mixed.iloc[:5, :7]))
    assert (len(genes), len(people)) == (7, 5)
    assert genes["n"].eq(5).all()


def test_gaps_and_undefined_values(bulk) -> None:
    bulk.layers["measured"][:2] = np.nan  # a patient who was not measured
    bulk.layers["measured"][2:4, 3] = np.nan
    bulk.layers["measured"][2:, 4] = 2.0
    bulk.layers["measured"][:, 5] = np.nan
    bulk.obs["leaky"] = bulk.obs["patient"] == "p03"
    genes, people = parts(stp.tl.pseudobulk_agreement(bulk))
    assert len(people) == 11
    assert len(genes) == 39
    genes = genes.set_index("gene")
    assert (genes.loc["g3", "n"], genes.loc["g2", "n"]) == (10, 11)
    y, x = bulk.layers["measured"][4::2, 3], (bulk.X[4::2, 3] + bulk.X[5::2, 3]) / 2
    assert genes.loc["g3", "r"] == pytest.approx(pearsonr(y, x)[0])
    assert np.isnan(genes.loc["g4", ["r", "p", "q"]].astype(float)).all()
    assert genes["leaky"].all()
    assert people.set_index("patient")["leaky"].sum() == 1


def test_baseline_of_the_other_patients_with_gaps(bulk) -> None:
    y = bulk.layers["measured"]
    y[2:, :5] = np.nan  # measured in one patient alone: there are no others to tell from
    y[8:, 10:25] = np.nan
    _, people = parts(stp.tl.pseudobulk_agreement(bulk))
    y = y[::2]
    for i in range(12):
        others = np.delete(y, i, axis=0)
        known = np.isfinite(y[i]) & np.isfinite(others).any(axis=0)
        expected = pearsonr(y[i, known], np.nanmean(others[:, known], axis=0))[0]
        assert people["baseline"].iloc[i] == pytest.approx(expected)


def test_two_patients_have_no_p(bulk) -> None:
    genes, _ = parts(stp.tl.pseudobulk_agreement(bulk[:4].copy()))
    assert genes["r"].abs().round(9).eq(1).all()
    assert genes["p"].isna().all()


def test_of_maps(toy) -> None:
    toy.obsm["predicted"] = toy.to_df() * 2
    table = stp.tl.pseudobulk_agreement(stp.tl.pseudobulk(toy, by="sample"))
    assert table["r"].to_numpy(dtype=float) == pytest.approx(1)


def test_several_models_and_the_gene_mean_in_one_table(bulk) -> None:
    """Maps of spots have no bulk beside them; a model that knows nothing of the patient is as good as the mean of a gene."""
    rng = np.random.default_rng(1)
    y = bulk.layers["measured"]
    maps = ad.AnnData(np.tile(y.mean(axis=0), (12, 1)) + rng.normal(0, 0.05, (12, 40)), obs=bulk.obs.iloc[::2])
    maps.var_names = bulk.var_names
    bulk.layers["baseline_mean"] = np.tile(np.linspace(0, 8, 40), (24, 1))
    fewer = bulk[bulk.obs["patient"] != "p03"][:, ::-1].copy()
    table = stp.tl.pseudobulk_agreement({"sequoia": fewer, "maps": maps}, correlation="spearman")
    assert table["model"].unique().tolist() == ["sequoia", "maps", "gene mean"]
    assert table.groupby("model").size().tolist() == [51, 51, 51]  # the patients and genes that all have
    single = stp.tl.pseudobulk_agreement(fewer, correlation="spearman")
    pd.testing.assert_frame_equal(
        table[table["model"] == "sequoia"].drop(columns="model").reset_index(drop=True), single
    )
    r = table.assign(r=table["r"].astype(float)).groupby(["model", "kind"])["r"]
    assert r.median()["sequoia", "across patients"] > 0.5 > 0.15 > abs(r.mean()["maps", "across patients"])
    assert r.median()["maps", "across genes"] > 0.9
    assert r.count()["gene mean", "across patients"] == 0
    flat = table[(table["model"] == "gene mean") & (table["kind"] == "across genes")]
    expected = spearmanr(y[2 * 5], np.linspace(0, 8, 40))[0]
    assert flat.set_index("patient").loc["p05", "r"] == pytest.approx(expected)

    del fewer.layers["measured"]
    truth = pd.DataFrame(y[::2], [f"p{i:02d}" for i in range(12)], bulk.var_names)
    given = stp.tl.pseudobulk_agreement({"sequoia": fewer, "maps": maps}, truth, correlation="spearman")
    pd.testing.assert_frame_equal(
        given.sort_values(["model", "kind", "gene", "patient"], ignore_index=True),
        table.sort_values(["model", "kind", "gene", "patient"], ignore_index=True),
    )
    with pytest.raises(KeyError, match=r"found \['baseline_mean'\].*truth="):
        stp.tl.pseudobulk_agreement({"sequoia": fewer, "maps": maps})
    maps.obs["patient"] = "other"
    with pytest.raises(ValueError, match="all models have in common; found 0 patients and 40 genes"):
        stp.tl.pseudobulk_agreement({"sequoia": fewer, "maps": maps}, truth)
    for wrong in ({}, {"gene mean": bulk}):
        with pytest.raises(ValueError, match="none called 'gene mean'"):
            stp.tl.pseudobulk_agreement(wrong)


def test_errors(bulk) -> None:
    with pytest.raises(ValueError, match="0 patients"):
        stp.tl.pseudobulk_agreement(bulk, pd.DataFrame({"g1": [1.0]}, index=["x"]))
    with pytest.raises(ValueError, match="unique patients.*'p00'"):
        stp.tl.pseudobulk_agreement(bulk, pd.DataFrame({"g1": [1.0, 2]}, index=["p00", "p00"]))
    with pytest.raises(TypeError, match="ndarray"):
        stp.tl.pseudobulk_agreement(bulk, np.ones((2, 2)))
    with pytest.raises(ValueError, match="'kendall'"):
        stp.tl.pseudobulk_agreement(bulk, correlation="kendall")
    del bulk.layers["measured"]
    with pytest.raises(KeyError, match="truth="):
        stp.tl.pseudobulk_agreement(bulk)
    with pytest.raises(KeyError, match="patient"):
        stp.tl.pseudobulk_agreement(bulk, patient_key="who")
