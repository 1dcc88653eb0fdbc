"""Values as what networks are trained to predict."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.models import Prediction
from stpredict.training import ArraySet, TrainConfig, TrainingFacts, fit_arrays, predict_arrays
from stpredict.training.targets import ValueTarget, target_from_dict

LINKS = ("identity", "log", "logit", "softmax")
RANGE = {"identity": (-np.inf, np.inf), "log": (0, np.inf), "logit": (0, 1), "softmax": (0, 1)}


def made(link: str, n: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, outputs that follow them, and values drawn around these, with zeros where the range begins there."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 5)).astype(np.float32)
    outputs = features @ rng.normal(size=(5, 3)) * 0.7 + [0.0, -0.5, -1.0]
    if link == "identity":
        return features, outputs, outputs + 0.3 * rng.normal(size=outputs.shape)
    if link == "log":
        return features, outputs, rng.poisson(3 * np.exp(outputs)) / 3
    if link == "logit":
        return features, outputs, rng.binomial(12, 1 / (1 + np.exp(-outputs))) / 12
    share = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    return features, outputs, np.array([rng.multinomial(12, row) for row in share]) / 12


def target_of(link: str, values: np.ndarray) -> ValueTarget:
    return ValueTarget.of(("a", "b", "c"), link, values, ("", "µm", ""), "scores")


def array_set(link: str, features: np.ndarray, values: np.ndarray) -> ArraySet:
    group = np.arange(len(features)) * 6 // len(features)
    return ArraySet(
        group, group, {"features": features}, target=values.astype(np.float32), kind=target_of(link, values)
    )


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("model", ["mean", "ridge", "mlp"])
def test_predictions_stay_in_range_and_keep_the_mean(model: str, link: str) -> None:
    features, _, values = made(link)
    data = array_set(link, features, values)
    config = TrainConfig(max_epochs=40, patience=0, learning_rate=0.01)
    fit = fit_arrays(model, data, hyperparameters={"hidden": 16} if model == "mlp" else None, config=config)
    far, _, _ = made(link, seed=1)
    far = np.concatenate([far, 5 * far])  # features beyond those of the training
    found = predict_arrays(fit.network, ArraySet(np.zeros(len(far)), np.zeros(len(far)), {"features": far}))
    predicted = data.kind.link(found.mean, TrainingFacts())
    low, high = RANGE[link]
    assert np.isfinite(predicted).all()
    assert predicted.min() >= low
    assert predicted.max() <= high
    if link == "softmax":
        np.testing.assert_allclose(predicted.sum(axis=1), 1, rtol=1e-5)
    inside = data.kind.link(predict_arrays(fit.network, data.unmeasured()).mean, TrainingFacts())
    np.testing.assert_allclose(inside.mean(axis=0), values.mean(axis=0), rtol=1e-4 if model != "mlp" else 0.15)
    if model != "mean":
        rest = ((inside - values) ** 2).mean(axis=0) / values.var(axis=0)
        assert (rest < 0.8).all()
        assert data.kind.validate(predict_arrays(fit.network, data.unmeasured()).mean, values, data.section) > 0.5
    if found.std is not None:
        spread = data.kind.link_std(found.mean, found.std)
        assert np.isfinite(spread).all()
        assert (spread >= 0).all()


@pytest.mark.parametrize("link", LINKS)
def test_a_spread_is_learned_in_the_unit_of_the_values(link: str) -> None:
    features, outputs, values = made(link)
    kind = target_of(link, values)
    truth = torch.from_numpy(values.astype(np.float32))
    mean = torch.from_numpy(outputs.astype(np.float32))
    scale = torch.from_numpy(kind.start(values.astype(np.float32))[1].astype(np.float32))
    error = np.abs(kind.link(mean.numpy(), TrainingFacts()) - values).mean()

    def lost(width: float) -> float:
        slope = torch.from_numpy(kind.link_std(mean.numpy(), np.ones(mean.shape, dtype=np.float32)))
        return float(kind.loss(Prediction(mean, std=width / slope.clamp_min(1e-6)), truth, scale))

    assert lost(1.25 * error) < min(lost(10 * error), lost(0.1 * error))


@pytest.mark.parametrize("link", LINKS)
def test_written_and_read(link: str) -> None:
    values = made(link)[2]
    target = target_of(link, values)
    entry = json.loads(json.dumps(target.to_dict()))
    assert target_from_dict(entry, target.names) == target


@pytest.mark.parametrize(
    "change", [{"link": "cube"}, {"center": [1.0]}, {"units": []}, {"slot": None, "center": None}], ids=str
)
def test_what_does_not_belong_together_is_refused(change: dict[str, Any]) -> None:
    entry = target_of("log", made("log")[2]).to_dict()
    with pytest.raises(ValueError, match="record of a target of kind 'values'"):
        target_from_dict(entry | change, ["a", "b", "c"])


@pytest.mark.parametrize("link", LINKS)
def test_equal_outputs_are_equal_values(link: str) -> None:
    """Wherever they stand: a constant prediction must have no correlation."""
    kind = target_of(link, made(link)[2])
    for number in range(50):
        outputs = np.random.default_rng(number).normal(size=(1, 3)).astype(np.float32).repeat(1037, axis=0)
        values = kind.link(outputs, TrainingFacts())
        assert values.dtype == np.float32
        assert (values == values[0]).all()


def test_columns_without_a_value_above_zero_have_outputs() -> None:
    values = made("softmax")[2]
    values[:, 0] += 0.01
    values[:, 1] = 0
    values /= values.sum(axis=1, keepdims=True)
    for link in ("log", "logit", "softmax"):
        kind = target_of(link, values)
        mean, std = kind.start(values.astype(np.float32))
        assert np.isfinite(mean).all()
        assert (std > 0).all()
        assert kind.link(mean[None].astype(np.float32), TrainingFacts())[0, 1] < 1e-4
