"""Counts as a target, from an object to rates and back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.metrics._rates import log1p_of_rates, residuals_of_rates
from stpredict.slots._provenance import read_record

COUNTS = stp.targets.Counts()


def rates_of(adata) -> np.ndarray:
    return np.asarray(adata.obsm["predicted"])


def test_users_get_rates_and_the_object_knows_it(toy, tmp_path) -> None:
    train = (toy.obs["patient"] != "p2").to_numpy()
    model = stp.tl.fit(toy, "ridge", train, target=COUNTS, path=tmp_path / "model")
    assert repr(model).startswith("FittedModel('ridge', 6 genes")
    for each in (model, stp.training.FittedModel.load(tmp_path / "model")):
        stp.tl.predict(toy, each)
        rates = rates_of(toy)
        # Six genes make all of the counts: their rates are shares, of one about.
        assert np.abs(rates.sum(axis=1) - 1).mean() < 0.25
        assert ((rates > 0) & (rates <= 1)).all()
        assert "predicted_std" not in toy.obsm
    assert each.target == model.target
    assert each.normalization == {"method": "rate", "family": "poisson", "size_factors": "all"}
    record = toy.uns["stpredict"]["predicted"]
    assert record["unit"]["method"] == "rate"
    share = toy.layers["counts"][train].sum(axis=0) / toy.layers["counts"][train].sum()
    np.testing.assert_allclose(record["training_rates"], share[None], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(toy.obsm["predicted_baseline_mean"]), np.tile(share, (72, 1)), rtol=1e-4)


def test_neither_x_nor_the_counts_of_test_patients_are_read(toy) -> None:
    train = (toy.obs["patient"] != "p2").to_numpy()
    other = toy.copy()
    other.layers["counts"][~train] = 7
    other.obs.loc[~train, "depth"] = 1.0
    other.X = np.full_like(other.X, np.nan)
    found = []
    for adata in (toy, other):
        model = stp.tl.fit(adata, "ridge", train, target=COUNTS, baselines=False)
        stp.tl.predict(adata, model)
        found.append(rates_of(adata))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_an_object_that_was_never_normalized(toy, form) -> None:
    """Counts are enough: scores are then of rates."""
    del toy.uns["stpredict"]["normalize"], toy.obs["depth"]
    toy.layers["counts"] = form(toy.layers["counts"])
    toy.X = toy.layers["counts"].copy()
    scores = stp.tl.cross_validate(toy, ["ridge"], target=COUNTS)
    assert set(scores["model"]) == {"ridge", "mean", "ridge (permuted labels)", "ridge (smoothed)"}
    line = scores[(scores["model"] == "ridge") & (scores["sample"] == "s3")].set_index("gene").loc["G2"]
    rows = (toy.obs["sample"] == "s3").to_numpy()
    counts = np.asarray(toy.layers["counts"].todense() if form is not np.asarray else toy.layers["counts"])
    truth = counts[rows, 2] / counts[rows].sum(axis=1)
    assert line["pearson"] == pytest.approx(np.corrcoef(truth, toy.obsm["predicted_ridge"][rows, 2])[0, 1], abs=1e-5)
    assert line["deviance_explained"] > 0.1
    assert stp.get.predicted(toy, "predicted_ridge").layers["measured"][rows, 2] == pytest.approx(truth)


def test_depth_stays_when_genes_are_left_out(toy) -> None:
    """The rate of a gene is its share of all counts, whatever genes are still there."""
    train = (toy.obs["patient"] != "p2").to_numpy()
    whole, part = toy.copy(), toy[:, :2].copy()
    for adata in (whole, part):
        model = stp.tl.fit(adata, "ridge", train, target=stp.targets.Counts(["G0", "G1"]), baselines=False)
        stp.tl.predict(adata, model)
    np.testing.assert_allclose(rates_of(whole), rates_of(part), rtol=1e-5)
    scores = [stp.tl.evaluate(adata, baselines=False)["deviance_explained"] for adata in (whole, part)]
    np.testing.assert_allclose(*scores, rtol=1e-5)


def test_selections_folds_and_models_of_several_folds(toy) -> None:
    target = stp.targets.Counts(panel={"method": "mean", "n_genes": 2}, always=["G5"])
    models = stp.tl.fit_folds(toy, "ridge", 3, target=target, baselines=["mean"])
    assert all("G5" in model.panel for model in models)
    assert toy.uns["stpredict"]["predicted"]["unit"]["method"] == "rate"
    assert stp.tl.evaluate(toy)["deviance_explained"].notna().any()
    with pytest.raises(ValueError, match="family"):
        stp.tl.fit(toy, "ridge", target=stp.targets.Counts(family="gamma"))
    del toy.layers["counts"]
    with pytest.raises(KeyError, match=r"layers\['counts'\].*raw counts"):
        stp.tl.fit(toy, "ridge", target=COUNTS)


@pytest.mark.parametrize(
    "options", [{"method": "log1p"}, {"method": "log1p", "target_sum": "median"}, {"method": "pearson_residuals"}]
)
def test_scales(toy, options) -> None:
    stp.pp.normalize(toy, **options)
    model = stp.tl.fit(toy, "ridge", target=COUNTS, baselines=False)
    stp.tl.predict(toy, model)
    rates, own = stp.get.predicted(toy), stp.get.predicted(toy, scale="normalized")
    counts = toy.layers["counts"]
    np.testing.assert_allclose(rates.layers["measured"], counts / counts.sum(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(own.layers["measured"], toy.X, rtol=1e-6)
    rows = (toy.obs["sample"] == "s1").to_numpy()
    depth = counts[rows].sum(axis=1)
    if "theta" in read_record(toy, "normalize"):
        expected = residuals_of_rates(rates.X[rows], counts[rows].sum(axis=0) / depth.sum(), depth)
    else:
        expected = log1p_of_rates(rates.X[rows], depth, np.median(depth) if "target_sum" in options else 1e4)
    np.testing.assert_allclose(own.X[rows], expected, rtol=1e-4, atol=1e-5)
    for gene in range(6):  # what a scale does is monotone
        np.testing.assert_array_equal(np.argsort(own.X[rows, gene]), np.argsort(rates.X[rows, gene]))
    assert stp.get.predicted(toy, scale="rate").X.tobytes() == rates.X.tobytes()
    scaled = counts / counts.sum(axis=1, keepdims=True) * 1e4
    expected = np.log1p(scaled) if "target_sum" not in options else toy.X  # what X is, where X is log1p
    np.testing.assert_allclose(stp.get.predicted(toy, scale="log1p").layers["measured"], expected, rtol=1e-5)


def test_scales_of_sections_without_counts(toy) -> None:
    stp.pp.normalize(toy, method="pearson_residuals")
    train = (toy.obs["patient"] != "p2").to_numpy()
    model = stp.tl.fit(toy, "ridge", train, baselines=False)
    blind = toy[~train].copy()
    blind = blind[:, :0].copy()
    stp.tl.predict(blind, model)
    rates = stp.get.predicted(blind, scale="rate")
    assert "measured" not in rates.layers
    share = np.asarray(blind.uns["stpredict"]["predicted"]["training_rates"])[0]
    # A residual of 0 is the proportion of the training.
    relative = rates.X / share - 1
    high = np.abs(blind.obsm["predicted"]) > 0.05
    assert (np.sign(relative[high]) == np.sign(blind.obsm["predicted"][high])).all()
    with pytest.raises(ValueError, match="expected scale to be 'rate'"):
        stp.get.predicted(blind, scale="cpm")
    toy.layers["mine"] = toy.X
    other = stp.tl.fit(toy, "ridge", train, target=stp.targets.Expression(layer="mine"), baselines=False)
    stp.tl.predict(toy, other)
    with pytest.raises(ValueError, match="expected a prediction of rates, log1p values or residuals"):
        stp.get.predicted(toy, scale="rate")
