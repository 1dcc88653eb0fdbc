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
        cell=np.stack(np.divmod(np.arange(n) % (n // 4), 3), axis=1),
        target=target.astype(np.float32),
        counts=rng.poisson(np.exp(target - target.max() + 2)).astype(np.float32),
        size_factor=rng.uniform(0.5, 2, n).astype(np.float32),
    )


def toy_bags(n: int = 24, n_genes: int = 5, n_tokens: int = 8, seed: int = 0) -> ArraySet:
    """Slides of as many patients, one to all tokens each; the genes follow the mean token."""
    rng = np.random.default_rng(seed)
    mixture = rng.uniform(size=(n, 1, 3))
    bag = np.concatenate([mixture + rng.normal(0, 0.1, (n, n_tokens, 3)), rng.normal(size=(n, n_tokens, 3))], axis=2)
    size = rng.integers(1, 40, (n, n_tokens)) * (np.arange(n_tokens) <= np.arange(n)[:, None] % n_tokens)
    bag[size == 0] = 0
    mean = bag.sum(axis=1) / (size > 0).sum(axis=1, keepdims=True)
    target = 2 + mean[:, :3] @ rng.normal(size=(3, n_genes)) * 2
    return ArraySet(
        section=np.zeros(n, dtype=np.int64),
        patient=np.arange(n),
        features=mean.astype(np.float32),
        bag=(100 + 20 * bag * (size > 0)[..., None]).astype(np.float32),
        bag_size=size.astype(np.float32),
        target=target.astype(np.float32),
    )


def toy(model: str) -> ArraySet:
    return toy_bags() if get_model(model).cls.unit == "bag" else toy_set()


def hyperparameters(model: str) -> dict:
    known = get_model(model).config.__dataclass_fields__
    small = {"patch_px": PX, "stride": 2, "dropout": 0.0, "symmetries": False, "hidden": 64}
    small |= {"width": 16, "levels": 2, "mixer_depth": 1, "augment": False}
    small |= {"depth": 2, "heads": 2, "d_head": 16, "d_hidden": 32} if get_model(model).cls.unit == "bag" else {}
    if get_model(model).cls.unit == "section":
        small |= {"dim": 64, "depth": 1, "heads": 2, "dim_head": 16, "mlp_dim": 64, "lstm_layers": 1}
        small |= {"graph_depth": 2, "graph_heads": 2, "graph_dim": 32, "graph_outputs": 32, "layers": 2}
        small |= {"capsules": 4, "dim_capsule": 16, "hypergraph_hidden": 32, "hypergraph_dropout": 0.0}
        small |= {"side": 4, "mixers": 1, "views": 0, "stain_jitter": 0.0}
    if model == "thitogene":
        small["neighbors"] = 0  # its graph attention has no way around it: random spots with neighbors come out alike
    small |= {"image_encoder": "features", "k": 3, "same_patient": True}
    return {name: value for name, value in small.items() if name in known}


EPOCHS = {"color": 150, "egn": 30, "hggep": 40, "hist2st": 30, "histogene": 20, "stnet": 10, "thitogene": 30}


def quick_config(model: str):
    changes = {"max_epochs": EPOCHS.get(model, 60), "patience": 0, "learning_rate": 3e-3, "optimizer": "adam"}
    changes |= {"weight_decay": 0.0}
    if model == "color":
        changes |= {"learning_rate": 3e-2}
    if model == "hist":
        changes |= {"learning_rate": 1e-2}
    if model == "stnet":
        changes |= {"batch_size": 8, "learning_rate": 5e-4, "schedule": "cosine"}
    return train_config(model).updated(changes)


@pytest.fixture(scope="module")
def fitted():
    torch.set_num_threads(1)
    return {
        name: fit_arrays(name, toy(name), hyperparameters=hyperparameters(name), config=quick_config(name))
        for name in MODELS
    }


@pytest.mark.parametrize("model", MODELS)
def test_learns_a_few_examples(fitted, model):
    data, fits = toy(model), fitted
    mean, _ = predict_arrays(fits[model].network, data)
    error = ((mean - data.target) ** 2).mean()
    variance = data.target.var(axis=0).mean()
    if model == "mean":
        np.testing.assert_allclose(mean, np.broadcast_to(data.target.mean(axis=0), mean.shape), rtol=1e-5)
    else:
        assert error < 0.5 * variance  # the mean leaves all of it


@pytest.mark.parametrize("model", MODELS)
def test_batch_size_changes_nothing(fitted, model):
    data, fits = toy(model), fitted
    whole, _ = predict_arrays(fits[model].network, data)
    single, _ = predict_arrays(fits[model].network, data, batch_size=1)
    np.testing.assert_allclose(single, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_saved_and_loaded_model_predicts_identically(fitted, model, tmp_path):
    data, fits = toy(model), fitted
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
def test_same_seed_same_result(model):
    data = toy(model)
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
    data = toy(model)
    info = get_model(model)
    options = hyperparameters(model)
    if "views" in options:
        options |= {"views": 2, "stain_jitter": 0.3}
    if options.pop("neighbors", None) == 0:
        options["neighbors"] = 4
    network = info.cls(info.configure(options), n_genes=5, n_features=6)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    batch = data.batch(np.arange(8))
    network.remember([data.batch(np.arange(len(data)))])
    network.train()
    network.loss(network(batch), batch)["total"].backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias common to all views changes no share of theirs.
    assert [name for name in idle if name != "view_weight.2.bias"] == []


@pytest.mark.parametrize("model", MODELS)
def test_evaluation_draws_nothing(fitted, model):
    data, fits = toy(model), fitted
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        results.append(predict_arrays(fits[model].network, data)[0])
    np.testing.assert_array_equal(*results)


BAGS = [name for name in MODELS if get_model(name).cls.unit == "bag"]


@pytest.mark.parametrize("model", BAGS)
def test_stages_equal_the_whole_network(fitted, model):
    """Maps call the stages: tokens one by one, then windows, then slices of the genes."""
    network, data = fitted[model].network, toy_bags()
    batch = data.batch(np.arange(len(data)))
    mask = batch.bag_size > 0
    with torch.inference_mode():
        tokens = torch.stack([network.tokens(slide) for slide in batch.bag])
        pooled = network.pool(tokens, mask)
        parts = [network.decode(pooled, mask, slice(i, i + 2)) for i in range(0, 5, 2)]
        torch.testing.assert_close(torch.cat(parts, dim=1), network(batch).mean, rtol=1e-5, atol=1e-5)
        if network.affine_decode:
            mean = network.decode(pooled.mean(dim=0, keepdim=True))
            torch.testing.assert_close(mean, network(batch).mean.mean(dim=0, keepdim=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", BAGS)
def test_padding_of_bags_has_no_influence(fitted, model):
    network, data = fitted[model].network, toy_bags()
    wanted, _ = predict_arrays(network, data)
    data.bag = np.pad(np.where(data.bag_size[..., None] > 0, data.bag, 7e4), [(0, 0), (0, 3), (0, 0)])
    data.bag_size = np.pad(data.bag_size, [(0, 0), (0, 3)])
    found, _ = predict_arrays(network, data)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [m for m in MODELS if "heteroscedastic" in get_model(m).config.__dataclass_fields__])
def test_heteroscedastic_head_gives_positive_spread(model):
    data = toy(model)
    options = hyperparameters(model) | {"heteroscedastic": True}
    fit = fit_arrays(model, data, hyperparameters=options, config=quick_config(model).updated({"max_epochs": 3}))
    mean, std = predict_arrays(fit.network, data)
    assert std is not None
    assert std.shape == mean.shape
    assert (std > 0).all()
