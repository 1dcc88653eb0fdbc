"""Classes, follow-up and standard deviations out of fold, and whose patients count as seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.cohorts import Fold
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record

MLP: dict[str, Any] = {"hyperparameters": {"hidden": 8}, "training": {"max_epochs": 3}}
NET: dict[str, Any] = {"model": "mlp", **MLP}
SEQUOIA: dict[str, Any] = {
    "model": "sequoia",
    "hyperparameters": {"depth": 1, "heads": 2, "d_head": 8},
    "training": {"max_epochs": 3},
}
QUICK: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False}
FOLLOW_UP = stp.targets.FollowUp("time", "event")


@pytest.fixture
def labeled(toy: Any) -> Any:
    """Two classes and three classes that follow the features; some spots without one of the three."""
    score = toy.obsm["X_toy"][:, 0]
    toy.obs["tumor"] = score > 0
    toy.obs["region"] = pd.Categorical(np.select([score < -0.5, score < 0.5], ["fat", "stroma"], "tumor"))
    toy.obs.loc[toy.obs_names[::9], "region"] = np.nan
    return toy


def test_two_classes_are_cross_validated(labeled: Any) -> None:
    scores = stp.tl.cross_validate(labeled, {"a": NET, "b": NET | {"hyperparameters": {"hidden": 4}}}, target="tumor")
    assert set(scores["model"]) == {"a", "b", "majority"}
    assert (scores["model"] == "majority").sum() == 6  # once, however many models
    assert not scores["leaky"].any()
    for label in ("a", "b"):
        probability = labeled.obs[f"predicted_{label}"]
        assert probability.between(0, 1).all()
        assert f"predicted_{label}" not in labeled.obsm
        assert not labeled.obs[f"predicted_{label}_leaky"].any()
        assert (labeled.obs.groupby("patient")[f"predicted_{label}_fold"].nunique() == 1).all()
    alone = stp.tl.segmentation(labeled, "tumor", "predicted_a")
    own = scores[scores["model"] == "a"].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        alone[alone["model"] == "model"].drop(columns="model").reset_index(drop=True), own.drop(columns="model")
    )
    record = read_record(labeled, "predicted_a")
    assert (record["target"], record["folds"]) == ("classes", ["p0", "p1", "p2"])


def test_probabilities_are_those_of_models_that_never_saw_the_patient(labeled: Any) -> None:
    stp.tl.cross_validate(labeled, {"a": NET}, target=stp.targets.Classes("tumor"))
    for patient in ("p0", "p2"):
        train = (labeled.obs["patient"] != patient).to_numpy()
        alone = labeled.copy()
        stp.tl.predict(alone, stp.tl.fit(alone, "mlp", train, target="tumor", **MLP))
        np.testing.assert_allclose(
            labeled.obs["predicted_a"][~train], alone.obs["tumor_probability"][~train], rtol=1e-4, atol=1e-5
        )


def test_three_classes_are_cross_validated(labeled: Any) -> None:
    scores = stp.tl.cross_validate(labeled, {"net": NET}, target="region")
    assert set(scores["class"]) == {"fat", "stroma", "tumor"}
    table = prediction_frame(labeled, "predicted_net")
    assert list(table.columns) == ["fat", "stroma", "tumor"]
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-5)
    chosen = table.columns.to_numpy()[table.to_numpy().argmax(axis=1)]
    assert labeled.obs["predicted_net_predicted"].astype(str).tolist() == chosen.tolist()
    assert "predicted_net" not in labeled.obs


def test_observations_that_no_fold_tested_have_no_class(labeled: Any) -> None:
    patient = labeled.obs["patient"].to_numpy()
    fold = [Fold("one", train=patient != "p2", test=patient == "p2")]
    stp.tl.cross_validate(labeled, {"net": NET}, fold, target="region")
    assert prediction_frame(labeled, "predicted_net")[patient != "p2"].isna().all(axis=None)
    assert labeled.obs["predicted_net_predicted"].isna().tolist() == (patient != "p2").tolist()
    stp.tl.cross_validate(labeled, {"two": NET}, fold, target="tumor")
    assert labeled.obs["predicted_two"].isna().tolist() == (patient != "p2").tolist()
    assert (labeled.obs["predicted_two_fold"] == np.where(patient == "p2", 0, -1)).all()


def test_leaks_of_classes_are_refused_or_marked(labeled: Any, frozen: Any) -> None:
    before = frozen(labeled)
    with pytest.raises(ValueError, match="p0 in training and test"):
        stp.tl.cross_validate(labeled, {"net": NET}, "section", target="tumor")
    assert frozen(labeled) == before
    scores = stp.tl.cross_validate(labeled, {"net": NET}, "section", target="tumor", allow_leakage=True)
    assert scores[scores["model"] == "net"]["leaky"].all()
    assert labeled.obs["predicted_net_leaky"].all()


def test_closed_forms_are_no_models_of_classes(labeled: Any, frozen: Any) -> None:
    before = frozen(labeled)
    for call in (
        lambda: stp.tl.cross_validate(labeled, {"net": NET, "r": "ridge"}, target="tumor"),
        lambda: stp.tl.fit_folds(labeled, "ridge", 3, target="tumor"),
    ):
        with pytest.raises(ValueError, match="trained in steps"):
            call()
        assert frozen(labeled) == before


def test_classes_of_fit_folds(labeled: Any) -> None:
    models = stp.tl.fit_folds(labeled, "mlp", 3, target="tumor", **MLP)
    assert all(model.target.kind == "classes" and model.baselines == {} for model in models)
    for number, model in enumerate(models):
        here = labeled[labeled.obs["tumor_probability_fold"] == number].copy()
        before = here.obs["tumor_probability"].to_numpy()
        stp.tl.predict(here, model)
        np.testing.assert_allclose(here.obs["tumor_probability"], before, rtol=1e-5)
    assert not labeled.obs["tumor_probability_leaky"].any()


def test_follow_up_is_cross_validated(slides: Any) -> None:
    scores = stp.tl.cross_validate(slides, {"a": SEQUOIA, "b": SEQUOIA}, 3, target=FOLLOW_UP)
    assert scores["model"].tolist() == ["a", "b"]
    assert (scores["n_patients"] == 12).all()
    assert not scores["leaky"].any()
    alone = stp.tl.survival(slides, "predicted_a", time="time", event="event", group="predicted_a_group")
    for name in alone.columns.drop("model", errors="ignore"):
        assert scores[name].iloc[0] == pytest.approx(alone[name].iloc[0], nan_ok=True)
    stp.tl.fit_folds(slides, "sequoia", 3, target=FOLLOW_UP, **{k: v for k, v in SEQUOIA.items() if k != "model"})
    np.testing.assert_allclose(slides.obs["predicted_a"], slides.obs["risk"], rtol=1e-4, atol=1e-5)
    assert slides.obs["predicted_a_group"].astype(str).tolist() == slides.obs["risk_group"].astype(str).tolist()
    np.testing.assert_array_equal(slides.obs["predicted_a_fold"], slides.obs["risk_fold"])
    assert {"predicted_a", "predicted_a_std"}.isdisjoint(slides.obsm)
    assert read_record(slides, "predicted_a")["target"] == "follow_up"


def test_risks_of_a_fold_are_relative_to_its_training_side(slides: Any) -> None:
    models = stp.tl.fit_folds(slides, "sequoia", 3, target=FOLLOW_UP, hyperparameters=SEQUOIA["hyperparameters"],
                              training=SEQUOIA["training"])  # fmt: skip
    for number, model in enumerate(models):
        here = slides[slides.obs["risk_fold"] == number].copy()
        risk, group = here.obs["risk"].to_numpy(), here.obs["risk_group"].astype(str).tolist()
        stp.tl.predict(here, model)
        np.testing.assert_allclose(here.obs["risk"], risk, rtol=1e-4, atol=1e-5)
        assert here.obs["risk_group"].astype(str).tolist() == group


def test_standard_deviations_are_written_out_of_fold(toy: Any) -> None:
    """Of networks that give one, for the test side of each fold, by cross_validate and by fit_folds."""
    stp.tl.cross_validate(toy, ["ridge", "mlp"], **QUICK)
    stp.tl.fit_folds(toy, "ridge", 3, baselines=["mean"])
    assert not {"predicted_mlp_std", "predicted_mean_std"} & set(toy.obsm)  # the mean is a comparator here
    for key in ("predicted_ridge_std", "predicted_std"):
        table = prediction_frame(toy, key)
        assert table.shape == toy.shape
        assert (table > 0).all(axis=None)
        assert list(table.columns) == list(toy.var_names)
    for patient in ("p0", "p1", "p2"):
        train = (toy.obs["patient"] != patient).to_numpy()
        alone = toy.copy()
        stp.tl.predict(alone, stp.tl.fit(alone, "ridge", train), key_added="alone")
        for key in ("predicted_ridge_std", "predicted_std"):
            np.testing.assert_allclose(
                prediction_frame(toy, key)[~train], prediction_frame(alone, "alone_std")[~train], rtol=1e-4
            )
    patient = toy.obs["patient"].to_numpy()
    stp.tl.cross_validate(toy, ["ridge"], [Fold("one", patient == "p0", patient == "p2")], baselines=False, **QUICK)
    assert prediction_frame(toy, "predicted_ridge_std").isna().all(axis=1).tolist() == (patient != "p2").tolist()


def test_standard_deviations_of_another_call_do_not_stay(toy: Any) -> None:
    stp.tl.cross_validate(toy, {"m": "ridge"}, baselines=False, **QUICK)
    assert "predicted_m_std" in toy.obsm
    stp.tl.cross_validate(toy, {"m": NET}, baselines=False, **QUICK)
    assert "predicted_m_std" not in toy.obsm
    stp.tl.fit_folds(toy, "ridge", 3, baselines=False)
    stp.tl.fit_folds(toy, "mlp", 3, baselines=False, **MLP)
    assert "predicted_std" not in toy.obsm


@pytest.mark.parametrize("target", [None, "tumor"])
def test_patients_of_the_model_to_start_from_count_as_seen(labeled: Any, target: str | None) -> None:
    """Weights that saw a patient predict them with a leak, whoever the fold trains on."""
    first = stp.tl.fit(labeled, "mlp", labeled.obs["patient"] == "p0", target=target, baselines=False, **MLP)
    expected = (labeled.obs["patient"] == "p0").tolist()
    options = QUICK | {"baselines": False} if target is None else {}
    warm = {"model": first, "training": MLP["training"]}
    scores = stp.tl.cross_validate(labeled, {"warm": warm, "cold": NET}, target=target, **options)
    assert labeled.obs["predicted_warm_leaky"].tolist() == expected
    assert not labeled.obs["predicted_cold_leaky"].any()
    leaky = scores[scores["model"] == "warm"].groupby("sample")["leaky"].all()
    assert leaky.to_dict() == {f"s{i}": i < 2 for i in range(6)}
    assert not scores[scores["model"] == "cold"]["leaky"].any()
    models = stp.tl.fit_folds(labeled, first, 3, target=target, baselines=False, training=MLP["training"])
    assert all(model.training.pretraining_patients == ["p0"] for model in models)
    key = "predicted" if target is None else "tumor_probability"
    assert labeled.obs[f"{key}_leaky"].tolist() == expected


def test_a_label_of_another_kind_of_target_is_replaced(labeled: Any) -> None:
    """Expression, then three classes, then two, then expression, under one label: nothing of an earlier call is left."""
    stp.tl.cross_validate(labeled, {"m": NET}, baselines=False, **QUICK)
    scores = stp.tl.cross_validate(labeled, {"m": NET}, target="region")
    assert set(scores["class"]) == {"fat", "stroma", "tumor"}
    scores = stp.tl.cross_validate(labeled, {"m": NET}, target="tumor")
    assert set(scores["class"]) == {"True"}
    assert "predicted_m" not in labeled.obsm
    assert "predicted_m_predicted" not in labeled.obs
    stp.tl.cross_validate(labeled, {"m": NET}, baselines=False, **QUICK)
    assert "predicted_m" not in labeled.obs
    assert list(prediction_frame(labeled, "predicted_m").columns) == list(labeled.var_names)


def test_predictions_of_other_classes_are_replaced(labeled: Any) -> None:
    three = stp.tl.fit(labeled, "mlp", target="region", **MLP)
    two = stp.tl.fit(labeled, "mlp", target="tumor", **MLP)
    stp.tl.predict(labeled, three, key_added="p")
    stp.tl.predict(labeled, two, key_added="p")
    assert "p" not in labeled.obsm
    assert "p_predicted" not in labeled.obs
    stp.tl.predict(labeled, three, key_added="p")
    assert "p" not in labeled.obs
