"""Classes of observations as the target."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._prediction import prediction_frame

QUICK = {"hyperparameters": {"hidden": 16, "dropout": 0.0}, "training": {"max_epochs": 80, "learning_rate": 0.02}}


@pytest.fixture
def labeled(toy):
    """Two classes and three classes that follow the features; some spots without a class."""
    score = toy.obsm["X_toy"][:, 0]
    toy.obs["tumor"] = score > 0
    toy.obs["region"] = pd.Categorical(np.select([score < -0.5, score < 0.5], ["fat", "stroma"], "tumor"))
    toy.obs.loc[toy.obs_names[::9], "region"] = np.nan
    return toy


def train_mask(adata) -> np.ndarray:
    return (adata.obs["patient"] != "p0").to_numpy()


def test_two_classes_become_one_probability(labeled) -> None:
    known = train_mask(labeled)
    model = stp.tl.fit(labeled, "mlp", known, target="tumor", **QUICK)
    assert model.panel == ["True"]
    assert model.target.to_dict() == {"kind": "classes", "key": "tumor", "classes": ["False", "True"]}
    assert model.normalization == {}
    assert model.baselines == {}
    stp.tl.predict(labeled, model)
    probability = labeled.obs["tumor_probability"].to_numpy()
    assert ((probability >= 0) & (probability <= 1)).all()
    truth = labeled.obs["tumor"].to_numpy()
    clear = np.abs(labeled.obsm["X_toy"][:, 0]) > 0.3  # others lie at the border of the classes
    assert ((probability > 0.5) == truth)[~known & clear].mean() > 0.8
    assert probability[truth].mean() > 0.7 > 0.3 > probability[~truth].mean()
    assert "tumor_probability" not in labeled.obsm
    assert labeled.obs["tumor_probability_leaky"].to_numpy().tolist() == known.tolist()


def test_the_second_category_is_the_one_predicted(labeled) -> None:
    text = np.where(labeled.obs["tumor"], "yes", "no")
    labeled.obs["text"] = pd.Categorical(text, categories=["yes", "no"])
    model = stp.tl.fit(labeled, "mlp", target="text", **QUICK)
    assert model.panel == ["no"]
    stp.tl.predict(labeled, model)
    assert labeled.obs["text_probability"][labeled.obs["tumor"]].mean() < 0.3


def test_several_classes_become_a_table(labeled) -> None:
    model = stp.tl.fit(labeled, "mlp", target="region", **QUICK)
    assert model.panel == ["fat", "stroma", "tumor"]
    stp.tl.predict(labeled, model)
    table = prediction_frame(labeled, "region_probability")
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-5)
    known = labeled.obs["region"].notna()
    assert (labeled.obs["region_predicted"].astype(str) == labeled.obs["region"].astype(str))[known].mean() > 0.8


def test_observations_without_a_class_are_not_learned_from(labeled) -> None:
    options = {"hyperparameters": QUICK["hyperparameters"], "training": {"max_epochs": 5, "patience": 0}}
    one = stp.tl.fit(labeled, "mlp", target="region", **options)
    unknown = labeled.obs["region"].isna()
    labeled.obs["other"] = labeled.obs["region"].astype(object).where(~unknown, None)
    other = stp.tl.fit(labeled, "mlp", target="other", **options)
    for name, value in one.network.state_dict().items():
        assert (value == other.network.state_dict()[name]).all()
    labeled.obs["filled"] = labeled.obs["region"].fillna("fat")
    filled = stp.tl.fit(labeled, "mlp", target="filled", **options)
    assert any((v != filled.network.state_dict()[k]).any() for k, v in one.network.state_dict().items())


def test_probabilities_of_models_are_averaged(labeled) -> None:
    models = [stp.tl.fit(labeled, "mlp", target="tumor", seed=seed, **QUICK) for seed in (0, 1)]
    values = []
    for model in models:
        stp.tl.predict(labeled, model)
        values.append(labeled.obs["tumor_probability"].to_numpy())
    stp.tl.predict(labeled, models)
    np.testing.assert_allclose(labeled.obs["tumor_probability"], np.mean(values, axis=0), rtol=1e-5)
    assert not np.array_equal(*values)


@pytest.mark.parametrize(
    ("target", "train", "options", "error", "match"),
    [
        ("absent", None, {}, KeyError, "absent"),
        (stp.targets.Classes("score"), None, {}, ValueError, "two or more classes"),
        ("one", None, {}, ValueError, "1 values"),
        ("rare", "known", {}, ValueError, "found none of rare"),
    ],
)
def test_bad_targets_are_refused(labeled, frozen, target, train, options, error, match) -> None:
    labeled.obs["score"] = labeled.obsm["X_toy"][:, 0]
    labeled.obs["one"] = "a"
    labeled.obs["known"] = train_mask(labeled)
    labeled.obs["rare"] = np.where(labeled.obs["known"], np.where(labeled.obs["tumor"], "b", "c"), "rare")
    before = frozen(labeled)
    with pytest.raises(error, match=match):
        stp.tl.fit(labeled, "mlp", train, target=target, **options)
    with pytest.raises(ValueError, match="trained in steps"):
        stp.tl.fit(labeled, "ridge", target="tumor")
    assert frozen(labeled) == before
