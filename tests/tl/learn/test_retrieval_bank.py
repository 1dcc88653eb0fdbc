"""Other sections to look up, and retrieval models through fit and predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stpredict as stp
from stpredict.slots._prediction import prediction_frame
from stpredict.training import FittedModel

OPTIONS: dict[str, Any] = {
    "hyperparameters": {"image_encoder": "features", "k": 8, "n_embedding": 8},
    "training": {"max_epochs": 2, "patience": 0},
    "baselines": ["mean"],
}


def of(adata: Any, *patients: str) -> np.ndarray:
    return adata.obs["patient"].isin(patients).to_numpy()


@pytest.fixture
def fitted(toy: Any) -> FittedModel:
    return stp.tl.fit(toy, "bleep", of(toy, "p0"), **OPTIONS)


def predicted(adata: Any, model: FittedModel) -> np.ndarray:
    part = adata.copy()
    stp.tl.predict(part, model, baselines=False)
    return part.obsm["predicted"]


@pytest.mark.parametrize("model", ["bleep", "mclstexp"])
def test_predictions_are_means_of_the_spots_given(toy: Any, model: str, frozen: Any) -> None:
    fitted = stp.tl.fit(toy, model, of(toy, "p0"), **OPTIONS)
    before, here = frozen(toy), predicted(toy[of(toy, "p2")], fitted)
    other = stp.tl.retrieval_bank(toy, fitted, of(toy, "p1"))
    assert frozen(toy) == before
    np.testing.assert_array_equal(predicted(toy[of(toy, "p2")], fitted), here)  # the given model is as it was
    np.testing.assert_allclose(other.network.bank.values, toy.X[of(toy, "p1")], rtol=1e-6)
    assert len(fitted.network.bank) == of(toy, "p0").sum()
    found = predicted(toy[of(toy, "p2")], other)
    assert not np.allclose(found, here)
    assert found.std(axis=0).min() > 0
    limits = toy.X[of(toy, "p1")]
    assert (found >= limits.min(axis=0) - 1e-5).all()
    assert (found <= limits.max(axis=0) + 1e-5).all()
    kept = [
        n
        for n, p in other.network.named_parameters()
        if not np.array_equal(p.detach(), fitted.network.get_parameter(n).detach())
    ]
    assert kept == []


def test_a_bank_of_the_training_sections_is_the_one_it_had(toy: Any, fitted: FittedModel) -> None:
    again = stp.tl.retrieval_bank(toy, fitted, of(toy, "p0"))
    np.testing.assert_allclose(predicted(toy[24:], again), predicted(toy[24:], fitted), rtol=1e-5)
    assert again.training.patients == fitted.training.patients


def test_own_patient_is_left_out_and_everybody_seen_is_marked(toy: Any, fitted: FittedModel) -> None:
    whole = stp.tl.retrieval_bank(toy, fitted, of(toy, "p1", "p2"))
    assert whole.training.patients == ["p1", "p2"]
    assert whole.training.samples == ["s2", "s3", "s4", "s5"]
    assert (whole.training.pretraining_patients, whole.training.n_obs) == (["p0"], 48)
    alone = stp.tl.retrieval_bank(toy, fitted, of(toy, "p1"))
    np.testing.assert_allclose(predicted(toy[of(toy, "p2")], whole), predicted(toy[of(toy, "p2")], alone), rtol=1e-5)
    part = toy[of(toy, "p0", "p2")].copy()
    stp.tl.predict(part, alone)
    assert part.obs["predicted_leaky"].to_numpy().tolist() == of(part, "p0").tolist()
    stp.tl.predict(part, whole)
    assert part.obs["predicted_leaky"].all()


def test_the_own_patient_when_asked(toy: Any, fitted: FittedModel) -> None:
    alone = stp.tl.retrieval_bank(toy, fitted, of(toy, "p1"))
    with pytest.raises(ValueError, match="same_patient=True"):
        predicted(toy[of(toy, "p1")], alone)
    leaky = stp.tl.retrieval_bank(toy, fitted, of(toy, "p1"), same_patient=True)
    assert (leaky.network.config.same_patient, alone.network.config.same_patient) == (True, False)
    assert predicted(toy[of(toy, "p1")], leaky).shape == (24, 6)


def test_saved_and_loaded(toy: Any, fitted: FittedModel, tmp_path) -> None:
    other = stp.tl.retrieval_bank(toy, fitted.save(tmp_path / "a"), of(toy, "p1", "p2"))
    loaded = FittedModel.load(other.save(tmp_path / "b"))
    np.testing.assert_array_equal(predicted(toy, loaded), predicted(toy, other))
    assert loaded.training.pretraining_patients == ["p0"]


def test_only_expression_is_needed(toy: Any, fitted: FittedModel) -> None:
    bare = toy[of(toy, "p1")].copy()
    del bare.obsm["X_toy"]
    del bare.obsm["spatial"]
    found = stp.tl.retrieval_bank(bare, fitted)
    np.testing.assert_array_equal(
        found.network.bank.keys, stp.tl.retrieval_bank(toy, fitted, of(toy, "p1")).network.bank.keys
    )


def test_bank_in_other_gene_order_and_sparse(toy: Any, fitted: FittedModel) -> None:
    from scipy import sparse

    other = toy[of(toy, "p1"), ::-1].copy()
    other.X = sparse.csr_matrix(other.X)
    expected = stp.tl.retrieval_bank(toy, fitted, of(toy, "p1")).network.bank.values
    np.testing.assert_allclose(stp.tl.retrieval_bank(other, fitted).network.bank.values, expected)


def test_a_patient_on_both_sides_is_refused_and_recorded(toy: Any, fitted: FittedModel) -> None:
    half = (toy.obs["sample"] == "s2").to_numpy()
    with pytest.raises(ValueError, match="p1 on both.*allow_leakage=True"):
        stp.tl.retrieval_bank(toy, fitted, half)
    assert stp.tl.retrieval_bank(toy, fitted, half, allow_leakage=True).training.allow_leakage is True
    assert stp.tl.retrieval_bank(toy, fitted, of(toy, "p1"), allow_leakage=True).training.allow_leakage is False


def other_panel(adata: Any) -> Any:
    return adata[:, ["G0", "G1", "G5"]].copy()


def other_normalization(adata: Any) -> Any:
    stp.pp.normalize(adata, method="log1p", target_sum=1234)
    return adata


def no_record(adata: Any) -> Any:
    del adata.uns["stpredict"]["normalize"]
    return adata


def scanpys(adata: Any) -> Any:
    adata.uns["log1p"] = {}
    return no_record(adata)


def unmeasured(adata: Any) -> Any:
    adata.obs["measured"] = False
    return adata


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (other_panel, ValueError, "bank from another panel, without G2, G3, G4"),
        (other_normalization, ValueError, "1234"),
        (no_record, KeyError, "normalize"),
        (scanpys, ValueError, "scanpy"),
        (unmeasured, ValueError, "without a measurement"),
    ],
)
def test_errors_leave_everything_as_it_was(
    toy: Any, fitted: FittedModel, frozen: Any, change: Any, error: type[Exception], message: str
) -> None:
    other = change(toy[of(toy, "p1")].copy())
    before, bank = frozen(other), fitted.network.bank.keys.clone()
    with pytest.raises(error, match=message):
        stp.tl.retrieval_bank(other, fitted)
    assert frozen(other) == before
    np.testing.assert_array_equal(fitted.network.bank.keys, bank)


def test_models_and_selections_that_give_no_bank(toy: Any, fitted: FittedModel) -> None:
    ridge = stp.tl.fit(toy, "ridge", of(toy, "p0"))
    with pytest.raises(ValueError, match="'ridge', which keeps none"):
        stp.tl.retrieval_bank(toy, ridge)
    with pytest.raises(ValueError, match="at least one observation in train"):
        stp.tl.retrieval_bank(toy, fitted, np.zeros(len(toy), dtype=bool))


def test_another_layer_is_another_unit(toy: Any) -> None:
    toy.layers["own"] = toy.X + 1
    model = stp.tl.fit(toy, "bleep", of(toy, "p0"), target={"layer": "own"}, **OPTIONS)
    with pytest.raises(ValueError, match="normalization of the model's training data"):
        stp.tl.retrieval_bank(toy, model, of(toy, "p1"))
    found = stp.tl.retrieval_bank(toy, model, of(toy, "p1"), layer="own").network.bank.values
    np.testing.assert_allclose(found, toy.X[of(toy, "p1")] + 1, rtol=1e-6)


def test_predictions_of_a_fit_look_up_other_patients_only(toy: Any) -> None:
    """Whose spots are whose survives the way from names to numbers and back, also when sections are missing."""
    toy.X = np.full(toy.shape, 1.0, dtype=np.float32) * np.repeat([1, 2, 3], 24)[:, None]
    model = stp.tl.fit(toy, "bleep", of(toy, "p1", "p2"), **OPTIONS)
    part = toy[::-1].copy()
    stp.tl.predict(part, model)
    mean = prediction_frame(part, "predicted").groupby(part.obs["patient"].to_numpy()).agg(["min", "max"])
    assert np.allclose(mean.loc["p1"], 3)
    assert np.allclose(mean.loc["p2"], 2)
    assert (mean.loc["p0"] >= 2).all()
    assert part.obs["predicted_leaky"].tolist() == (part.obs["patient"] != "p0").tolist()
    assert "predicted_std" in part.obsm


def test_out_of_fold_predictions_of_all_networks_that_look_up(toy: Any) -> None:
    specs = {
        m: {"model": m, "hyperparameters": OPTIONS["hyperparameters"], "training": OPTIONS["training"]}
        for m in ("bleep", "mclstexp")
    }
    table = stp.tl.cross_validate(toy, specs)
    assert not table[table["model"].isin(specs)]["leaky"].any()
    assert {"bleep", "mclstexp"} <= set(table["model"])
    assert np.isfinite(table[table["model"] == "bleep"]["pearson"]).all()


def test_correlation_cannot_choose_the_epoch(toy: Any) -> None:
    with pytest.raises(ValueError, match="monitor='loss'"):
        stp.tl.fit(toy, "bleep", of(toy, "p0"), training={"monitor": "correlation"})


@pytest.fixture(scope="module")
def null_cohort() -> Any:
    """Three patients whose genes have nothing to do with the picture, as residuals."""
    adata = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_genes=60, microns_per_pixel=2)
    stp.pp.image_features(adata)
    adata.layers["counts"] = stp.datasets.null_counts(adata.layers["counts"], adata.obs["sample"].to_numpy(), 0)
    stp.pp.normalize(adata)
    return adata


@pytest.mark.parametrize("model", ["bleep", "mclstexp"])
def test_null_genes_are_worth_nothing_and_cost_nothing(null_cohort: Any, model: str) -> None:
    small = stp.models.get_model(model).cls.small
    models = {
        name: {"model": model, "hyperparameters": dict(small) | {"shrink": shrink}, "training": {"max_epochs": 3}}
        for name, shrink in (("shrunk", True), ("as published", False))
    }
    table = stp.tl.cross_validate(
        null_cohort,
        models,
        metrics=["pearson", "pearson_residual", "deviance_explained"],
        baselines=False,
        ceiling=False,
    )
    found = stp.tl.summarize(table, n_boot=1).set_index("model")
    assert (found.loc["shrunk", ["pearson_residual", "deviance_explained"]].abs() < 0.02).all()
    assert found.loc["as published", "deviance_explained"] < -0.2
    # A gene that nothing is known of keeps its order: no gene drops out of the mean.
    assert table["pearson_residual"].notna().all()


def test_how_much_was_shrunk_is_recorded_and_kept_for_other_banks(toy: Any, fitted: FittedModel, tmp_path: Any) -> None:
    inner = stp.tl.fit(toy, "bleep", of(toy, "p0", "p1"), **OPTIONS | {"training": {"max_epochs": 2}})
    facts = [model.training.extra["shrinkage"] for model in (fitted, inner)]
    assert [entry["fitted_on"] for entry in facts] == ["training", "held-out"]
    slope = inner.network.shrinkage.slope
    np.testing.assert_allclose(facts[1]["quartiles"], np.quantile(slope, [0.25, 0.5, 0.75]), atol=1e-3)
    other = stp.tl.retrieval_bank(toy, inner, of(toy, "p2"))
    np.testing.assert_array_equal(other.network.shrinkage.slope, slope)
    np.testing.assert_allclose(other.network.shrinkage.center, toy.X[of(toy, "p2")].mean(axis=0), rtol=1e-5)
    loaded = FittedModel.load(inner.save(tmp_path / "model"))
    assert loaded.training.extra["shrinkage"] == facts[1]
    np.testing.assert_array_equal(loaded.network.shrinkage.slope, slope)
    plain = OPTIONS | {"hyperparameters": OPTIONS["hyperparameters"] | {"shrink": False}}
    assert stp.tl.fit(toy, "bleep", of(toy, "p0"), **plain).training.extra == {}
