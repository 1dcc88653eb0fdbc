"""Tables whose rows are genes: fit, predict, folds by chromosome, scores over genes."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp


@pytest.fixture
def genes() -> ad.AnnData:
    adata = stp.datasets.synthetic_genes(60, width=128)
    # What the ridge reads: the means over the windows of the element, and where they come from.
    adata.obsm["X_pooled"] = adata.obsm["sequence_features"][:, 2:8].mean(axis=1)
    adata.uns["stpredict"]["X_pooled"] = {"encoder": "pooled"}
    return adata


QUICK: dict[str, Any] = {"features": "X_pooled", "target": "expr", "progress": False}


def test_folds_are_chromosomes_and_scores_are_over_their_genes(genes: ad.AnnData) -> None:
    scores = stp.tl.cross_validate(genes, ["ridge"], "chromosomes", **QUICK)
    ridge = scores[scores["model"] == "ridge"].set_index("sample")
    assert list(ridge.index) == ["chr1", "chr2", "chr3", "chr4"]
    assert set(scores["leaky"]) == {False}
    for name, row in ridge.iterrows():
        own = (genes.obs["chrom"] == name).to_numpy()
        truth, found = genes.obs["expr"].to_numpy()[own], genes.obsm["predicted_ridge"][own, 0].astype(float)
        assert row["n_obs"] == own.sum()
        assert row["pearson"] == pytest.approx(np.corrcoef(truth, found)[0, 1])
        assert row["mse"] == pytest.approx(((truth - found) ** 2).mean())
        assert row["r2"] == pytest.approx(1 - ((truth - found) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
    assert ridge["pearson"].mean() > 0.5 > scores[scores["model"].str.contains("permuted")]["pearson"].mean()
    summary = stp.tl.summarize(scores).set_index("model")
    assert summary.loc["ridge", "r2"] == pytest.approx(ridge["r2"].mean())


def test_patient_and_a_number_mean_chromosomes_as_well(genes: ad.AnnData) -> None:
    names = {
        splitter: set(stp.tl.cross_validate(genes, ["mean"], splitter, baselines=False, **QUICK)["sample"])
        for splitter in ("patient", 2)
    }
    assert names == {"patient": {"chr1", "chr2", "chr3", "chr4"}, 2: {"chr1+chr3", "chr2+chr4"}}


def test_columns_of_X_are_conditions_whose_values_are_taken_as_they_are(genes: ad.AnnData) -> None:
    train = (genes.obs["chrom"] != "chr1").to_numpy()
    column = stp.tl.fit(genes, "ridge", train, features="X_pooled", target="expr", baselines=False)
    for target in (None, ["condition_0"]):
        model = stp.tl.fit(genes, "ridge", train, features="X_pooled", target=target, baselines=["mean"])
        assert model.panel == ["condition_0"]
        stp.tl.predict(genes, model)
        np.testing.assert_allclose(
            genes.obsm["predicted"], stp.tl.predict(genes, column, copy=True).obsm["predicted"], rtol=1e-4
        )
        assert genes.obs["predicted_leaky"].tolist() == train.tolist()
        scores = stp.tl.evaluate(genes)
        assert scores.groupby("leaky")["n_obs"].first().to_dict() == {False: 15, True: 45}
        assert set(scores["target"]) == {"X"}


def test_the_inner_validation_holds_out_chromosomes(genes: ad.AnnData) -> None:
    training = {"max_epochs": 2, "patience": 1}
    model = stp.tl.fit(genes, "mlp", features="X_pooled", target="expr", baselines=False, training=training)
    assert model.training.validated_on == "chromosome"
    assert model.training.patients == ["chr1", "chr2", "chr3", "chr4"]


def test_models_of_folds(genes: ad.AnnData) -> None:
    models = stp.tl.fit_folds(genes, "ridge", 2, baselines=False, **QUICK)
    assert [model.training.patients for model in models] == [["chr2", "chr4"], ["chr1", "chr3"]]
    assert set(stp.tl.evaluate(genes)["sample"]) == {"chr1+chr3", "chr2+chr4"}


def test_a_split_within_a_chromosome_is_refused_or_marked(genes: ad.AnnData) -> None:
    test = np.arange(genes.n_obs) < 10
    folds = [stp.cohorts.Fold("half", ~test, test)]
    with pytest.raises(ValueError, match="chromosomes on one side.*leave_chromosomes_out"):
        stp.tl.cross_validate(genes, ["ridge"], folds, **QUICK)
    scores = stp.tl.cross_validate(genes, ["ridge"], folds, allow_leakage=True, **QUICK)
    assert set(scores["leaky"]) == {True}


def test_groups_of_genes_may_stand_for_chromosomes(genes: ad.AnnData) -> None:
    genes.obs["family"] = np.where(np.arange(genes.n_obs) % 3 == 0, "a", "b")
    del genes.obs["tss"]  # families of one chromosome, whose windows nobody knows
    scores = stp.tl.cross_validate(genes, ["mean"], "chromosomes", patient_key="family", baselines=False, **QUICK)
    assert set(scores["sample"]) == {"a", "b"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.obs.pop("chrom"), r"obs\['chrom'\].*as_genes"),
        (lambda a: a.obs.__setitem__("chrom", ["1", "chr1"] * 30), r"one name for each chromosome.*1 and chr1"),
        (lambda a: a.obs.__setitem__("chrom", "chr1"), "at least two chromosomes"),
        (lambda a: a.uns["stpredict"].pop("unit"), "splitter='chromosomes' with a table whose rows are genes"),
        (lambda a: a.obsm["sequence"].__setitem__(1, a.obsm["sequence"][0]), "other sequences in training than in test.*G0000, G0001"),
        (lambda a: a.obsm["sequence"].__setitem__(1, 3 - a.obsm["sequence"][0, ::-1]), "other sequences in training"),
        (lambda a: a.obs.__setitem__("gene_id", ["ENSG01.1", "ENSG01.2", *map(str, range(58))]), r"found ENSG01 .*gene_id"),
    ],
)  # fmt: skip
def test_faults_are_named(genes: ad.AnnData, change: Any, match: str) -> None:
    change(genes)
    if "unit" not in genes.uns["stpredict"]:
        genes.obs["sample"] = genes.obs["chrom"]
        genes.obs["patient"] = genes.obs["chrom"] + "p"
    with pytest.raises((KeyError, ValueError), match=match):
        stp.tl.cross_validate(genes, ["ridge"], "chromosomes", **QUICK)
    assert "predicted_ridge" not in genes.obsm


def test_other_splitters_are_refused(genes: ad.AnnData) -> None:
    for splitter in ("section", "blocks"):
        with pytest.raises(ValueError, match="splitter='chromosomes'.*found"):
            stp.tl.cross_validate(genes, ["ridge"], splitter, **QUICK)
