"""`bleep`: sizes, training, and what it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stpredict.models import Shape
from stpredict.models._bleep import BLEEP, BLEEPConfig
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

GENES = 12
SMALL = {"image_encoder": "features", "k": 15, "n_embedding": 32}


def cohort(n: int = 240, seed: int = 0) -> ArraySet:
    """Four patients, one section each; the genes follow two of six features, with noise that is theirs alone."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 6)).astype(np.float32)
    effect = np.random.default_rng(1).normal(size=(2, GENES))
    target = 3 + features[:, :2] @ effect + rng.normal(0, 0.5, (n, GENES))
    code = np.arange(n) * 4 // n
    return ArraySet(code, code, {"features": features}, target=target.astype(np.float32))


@pytest.fixture(scope="module")
def trained() -> tuple[Any, ArraySet]:
    torch.set_num_threads(1)
    data = cohort()
    config = train_config("bleep", {"max_epochs": 30, "patience": 0, "batch_size": 60})
    fit = fit_arrays("bleep", data.take(data.patient < 3), hyperparameters=SMALL, config=config)
    return fit, data.take(data.patient == 3)


def test_defaults_are_those_of_the_paper() -> None:
    config = BLEEPConfig()
    assert (config.image_encoder, config.k, config.n_embedding, config.weighting) == ("resnet50", 50, 256, "mean")
    assert (config.same_patient, config.normalize) == (False, True)
    settings = train_config("bleep")
    assert (settings.optimizer, settings.learning_rate, settings.weight_decay) == ("adamw", 1e-3, 1e-3)
    assert (settings.batch_size, settings.monitor) == (256, "loss")
    shape = Shape(3, {"features": 2})
    assert BLEEP(BLEEPConfig(image_encoder="features", normalize=False), shape).temperature == 1.0
    assert BLEEP(BLEEPConfig(image_encoder="features"), shape).temperature == 0.1
    assert BLEEP(BLEEPConfig(image_encoder="features", temperature=0.5), shape).temperature == 0.5


def test_published_sizes() -> None:
    with torch.device("meta"):
        net = BLEEP(BLEEPConfig(), Shape(3467))
    assert net.image_projection.projection.weight.shape == (256, 2048)
    assert net.spot_projection.projection.weight.shape == (256, 3467)
    for head in (net.image_projection, net.spot_projection):
        assert head.fc.weight.shape == (256, 256)
        assert head.layer_norm.weight.shape == (256,)
    assert sum(p.numel() for p in net.body.parameters()) == 23_508_032  # ResNet-50 without its last layer


def test_every_parameter_learns() -> None:
    for options in (SMALL, {"patch_px": 32}):
        torch.manual_seed(0)
        net = BLEEP(BLEEPConfig(**options), Shape(GENES, {"features": 6})).train()
        batch = cohort().batch(np.arange(8))
        batch.inputs["patches"] = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
        net.loss(net(batch), batch)["total"].backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_learns_what_other_patients_share(trained) -> None:
    fit, test = trained
    found = predict_arrays(fit.network, test)
    mean, std = found.mean, found.std
    error = ((mean - test.target) ** 2).mean()
    assert error < 0.5 * test.target.var(axis=0).mean()
    ratio = mean.var(axis=0) / test.target.var(axis=0)
    assert (ratio > 0.2).all()  # far from constant,
    assert (ratio < 1.2).all()  # though means vary less than what they are taken of
    assert (std > 0).all()
    assert fit.history["train_loss"].iloc[-1] < fit.history["train_loss"].iloc[0] - 0.3


def test_with_three_metrics_too() -> None:
    data = cohort()
    config = train_config("bleep", {"max_epochs": 30, "patience": 0, "batch_size": 60})
    options = SMALL | {"normalize": False, "weighting": "inverse_distance"}
    fit = fit_arrays("bleep", data.take(data.patient < 3), hyperparameters=options, config=config)
    test = data.take(data.patient == 3)
    assert ((predict_arrays(fit.network, test).mean - test.target) ** 2).mean() < 0.6 * test.target.var(axis=0).mean()


def test_a_spot_is_embedded_the_same_in_any_company(trained) -> None:
    fit, test = trained
    net = fit.network
    whole, alone = test.batch(np.arange(len(test))), test.batch(np.arange(1))
    with torch.no_grad():
        torch.testing.assert_close(
            net.embed_spots(alone, alone.target), net.embed_spots(whole, whole.target)[:1], atol=1e-6, rtol=1e-6
        )
        torch.testing.assert_close(net.embed_images(alone), net.embed_images(whole)[:1], atol=1e-6, rtol=1e-6)


def test_order_and_size_of_batches_change_nothing(trained) -> None:
    fit, test = trained
    mean = predict_arrays(fit.network, test).mean
    order = np.random.default_rng(0).permutation(len(test))
    np.testing.assert_allclose(predict_arrays(fit.network, test.take(order)).mean, mean[order], atol=1e-5)
    np.testing.assert_allclose(predict_arrays(fit.network, test, batch_size=1).mean, mean, atol=1e-5)
    np.testing.assert_array_equal(predict_arrays(fit.network, test).mean, mean)


def test_permuted_labels_teach_nothing() -> None:
    data = cohort()
    config = train_config("bleep", {"max_epochs": 15, "patience": 0, "batch_size": 60})
    fit = fit_arrays("bleep", data.take(data.patient < 3).permuted(0), hyperparameters=SMALL, config=config)
    test = data.take(data.patient == 3)
    assert ((predict_arrays(fit.network, test).mean - test.target) ** 2).mean() > 0.95 * test.target.var(axis=0).mean()
