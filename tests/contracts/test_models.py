"""Every registered model: learns, saves, loads, predicts identically, whatever the batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.models import get_model, list_models
from stpredict.training import ArraySet, FittedModel, fit_arrays, predict_arrays, train_config

MODELS = list(list_models()["model"])
PX = 32


def toy_set(n: int = 24, n_genes: int = 5, seed: int = 0) -> ArraySet:
    """Two patients with two sections each; the genes follow the color of the patches and the features alike."""
    rng = np.random.default_rng(seed)
    tone = rng.uniform(60, 220, size=(n, 3))
    patches = np.clip(tone[:, None, None, :] + rng.normal(0, 8, (n, PX, PX, 3)), 0, 255).astype(np.uint8)
    features = np.concatenate([tone / 255, rng.normal(size=(n, 3))], axis=1).astype(np.float32)
    target = 2 + (tone / 255) @ rng.normal(size=(3, n_genes)) * 2
    return ArraySet(
        section=np.arange(n) * 4 // n,
        patient=np.arange(n) * 2 // n,
        positions=rng.uniform(0, 1000, (n, 2)).astype(np.float32),
        features=features,
        patches=patches,
        target=target.astype(np.float32),
    )


def hyperparameters(model: str) -> dict:
    known = get_model(model).config.__dataclass_fields__
    small = {"patch_px": PX, "stride": 2, "dropout": 0.0, "symmetries": False, "hidden": 64}
    return {name: value for name, value in small.items() if name in known}


def quick_config(model: str):
    changes = {"max_epochs": 60, "patience": 0, "learning_rate": 3e-3, "optimizer": "adam", "weight_decay": 0.0}
    if model == "color":
        changes |= {"learning_rate": 3e-2, "max_epochs": 300}
    if model == "stnet":
        changes |= {"max_epochs": 10, "batch_size": 8, "learning_rate": 1e-3, "schedule": "cosine"}
    return train_config(model).updated(changes)


@pytest.fixture(scope="module")
def fitted():
    torch.set_num_threads(1)
    data = toy_set()
    return data, {
        name: fit_arrays(name, data, hyperparameters=hyperparameters(name), config=quick_config(name))
        for name in MODELS
    }


@pytest.mark.parametrize("model", MODELS)
def test_learns_a_few_spots(fitted, model):
    data, fits = fitted
    mean, _ = predict_arrays(fits[model].network, data)
    error = ((mean - data.target) ** 2).mean()
    variance = data.target.var(axis=0).mean()
    if model == "mean":
        np.testing.assert_allclose(mean, np.broadcast_to(data.target.mean(axis=0), mean.shape), rtol=1e-5)
    else:
        assert error < 0.25 * variance


@pytest.mark.parametrize("model", MODELS)
def test_batch_size_changes_nothing(fitted, model):
    data, fits = fitted
    whole, _ = predict_arrays(fits[model].network, data)
    single, _ = predict_arrays(fits[model].network, data, batch_size=1)
    np.testing.assert_allclose(single, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_saved_and_loaded_model_predicts_identically(fitted, model, tmp_path):
    data, fits = fitted
    part = FittedModel(
        model=model,
        network=fits[model].network,
        panel=[f"g{i}" for i in range(5)],
        normalization={"method": "log1p"},
        features={"slots": {}, "scaling": "global"},
        training={"patients": ["a"], "n_obs": 24},
        history=fits[model].history,
    )
    part.save(tmp_path / "model")
    again = FittedModel.load(tmp_path / "model")
    before, _ = predict_arrays(part.network, data)
    after, _ = predict_arrays(again.network, data)
    np.testing.assert_array_equal(before, after)
    assert again.panel == part.panel
    assert len(again.history) == len(part.history)


@pytest.mark.parametrize("model", MODELS)
def test_same_seed_same_result(fitted, model):
    data, _ = fitted
    config = quick_config(model).updated({"max_epochs": 2})
    results = [
        predict_arrays(
            fit_arrays(model, data, hyperparameters=hyperparameters(model), config=config, seed=3).network, data
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(results[0][0], results[1][0])


@pytest.mark.parametrize("model", [name for name in MODELS if not get_model(name).cls.closed_form])
def test_gradients_reach_every_parameter(model):
    data = toy_set()
    info = get_model(model)
    network = info.cls(info.configure(hyperparameters(model)), n_genes=5, n_features=6)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    batch = data.batch(np.arange(8))
    network.train()
    network.loss(network(batch), batch)["total"].backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


@pytest.mark.parametrize("model", [m for m in MODELS if "heteroscedastic" in get_model(m).config.__dataclass_fields__])
def test_heteroscedastic_head_gives_positive_spread(model):
    data = toy_set()
    options = hyperparameters(model) | {"heteroscedastic": True}
    fit = fit_arrays(model, data, hyperparameters=options, config=quick_config(model).updated({"max_epochs": 3}))
    mean, std = predict_arrays(fit.network, data)
    assert std is not None
    assert std.shape == mean.shape
    assert (std > 0).all()
