"""Contrastive training and retrieval: what `bleep` and `mclstexp` share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from stpredict.models import Batch, Shape, get_model
from stpredict.models._bleep import BLEEP, BLEEPConfig
from stpredict.models._mclstexp import MclSTExp, MclSTExpConfig
from stpredict.models.base._retrieval import in_chunks
from stpredict.models.nn._shrinkage import Shrinkage
from stpredict.training import (
    ArraySet,
    FittedModel,
    TrainingFacts,
    fit_arrays,
    predict_arrays,
    train_config,
    untrained,
)
from stpredict.training._fit_arrays import show_rows
from stpredict.training._validation import inner_split
from stpredict.training.targets import ClassTarget, ExpressionTarget

GENES, WIDTH, N = 7, 5, 40
SHAPE = Shape(GENES, {"features": WIDTH})
FEATURES = {"image_encoder": "features", "n_embedding": 16, "dropout": 0.0}
CONFIGS: dict[str, tuple[type, type]] = {"bleep": (BLEEP, BLEEPConfig), "mclstexp": (MclSTExp, MclSTExpConfig)}


def make(n: int = N, seed: int = 0, given: dict[str, Any] | None = None, **changes: Any) -> ArraySet:
    rng = np.random.default_rng(seed)
    inputs = {
        "positions": (rng.permutation(n)[:, None] // np.array([1, 8]) % 8 * 200.0).astype(np.float32),
        "features": rng.normal(size=(n, WIDTH)).astype(np.float32),
        "patches": rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
    }
    target = rng.gamma(2, size=(n, GENES)).astype(np.float32)
    section = np.arange(n) * 4 // n
    return replace(ArraySet(section, section // 2, inputs | (given or {}), target=target), **changes)


def network(model: str = "bleep", data: ArraySet | None = None, **changes: Any) -> Any:
    """One whose bank holds the data, as drawn; it returns what it has found as it is, unless told otherwise."""
    options = FEATURES | {"shrink": False} | changes
    return untrained(model, data or make(), hyperparameters=options, seed=0).network


def one_batch(n: int = 12, **given: Any) -> Batch:
    batch = make().batch(np.arange(n))
    return replace(batch, inputs=batch.inputs | given)


def by_hand(net: Any, data: ArraySet, queries: ArraySet) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, query by query and spot by spot."""
    config = net.config
    with torch.no_grad():
        image = net.embed_images(queries.batch(np.arange(len(queries)))).double().numpy()
        parts = [data.batch(np.flatnonzero(data.section == c)) for c in np.unique(data.section)]
        keys = torch.cat([net.embed_spots(part, part.target) for part in parts]).double().numpy()
    mean, std = (np.empty((len(queries), GENES)) for _ in range(2))
    for i in range(len(queries)):
        scored = []
        for j in range(len(data)):
            if config.same_patient or data.patient[j] != queries.patient[i]:
                cosine = image[i] @ keys[j] / np.linalg.norm(image[i]) / np.linalg.norm(keys[j])
                scored.append((-cosine, j))
        chosen = [j for _, j in sorted(scored)[: config.k]]
        weights = []
        for j in chosen:
            if config.weighting == "mean":
                weights.append(1.0)
            elif config.weighting == "similarity":
                weights.append(np.exp(image[i] @ keys[j] / net.temperature))
            elif config.normalize:
                weights.append(1 / ((image[i] - keys[j]) ** 2).sum())
            else:
                weights.append(1 / np.abs(image[i] - keys[j]).sum() ** 2)
        share = np.array(weights) / sum(weights)
        profiles = data.target[chosen].astype(float)
        mean[i] = sum(share[:, None] * profiles)
        std[i] = np.sqrt(sum(share[:, None] * (profiles - mean[i]) ** 2))
    return mean, std


@pytest.mark.parametrize("same_patient", [False, True])
@pytest.mark.parametrize("weighting", ["mean", "similarity", "inverse_distance"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("k", [1, 6, 30])
def test_retrieval_equals_a_loop(normalize: bool, weighting: str, same_patient: bool, k: int) -> None:
    data = make()
    net = network(data=data, normalize=normalize, weighting=weighting, same_patient=same_patient, k=k)
    queries = make(9, seed=1, patient=np.array([0, 1, -1] * 3))
    found = predict_arrays(net, queries)
    mean, std = found.mean, found.std
    expected_mean, expected_std = by_hand(net, data, queries)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std, expected_std, rtol=1e-4, atol=1e-5)


def test_embeddings_have_length_1_where_one_metric_serves() -> None:
    net = network(normalize=False)
    batch = one_batch()
    with torch.no_grad():
        net.spot_projection.layer_norm.weight.mul_(torch.linspace(0.1, 3, 16))
        assert net.embed_spots(batch, batch.target).norm(dim=1).std() > 0.05
        assert network().embed_spots(batch, batch.target).norm(dim=1).sub(1).abs().max() < 1e-5
        assert network().embed_images(batch).norm(dim=1).sub(1).abs().max() < 1e-5


def test_equally_near_spots_are_taken_in_the_order_of_the_bank() -> None:
    data = make(16, patient=np.arange(16) % 2)
    data.target[:] = data.target[0]
    net = network(data=data, k=3)
    profiles = torch.arange(16.0)[:, None].expand(-1, GENES)
    net.bank.fill(net.bank.keys, profiles, net.bank.patient)
    queries = make(5, seed=1, patient=np.array([0, 1, -1, 0, 1]))
    for size in (1, 2, 5):
        mean = predict_arrays(net, queries, batch_size=size).mean
        np.testing.assert_allclose(mean[:, 0], [(1 + 3 + 5) / 3, 2, 1, 3, 2], rtol=1e-6)


def test_weights_survive_a_query_that_is_a_key_and_fewer_spots_than_k() -> None:
    data = make()
    net = network(data=data, k=1000, weighting="inverse_distance")
    batch = data.batch(np.arange(3))
    with torch.no_grad():
        net.bank.fill(net.embed_images(batch), batch.target, torch.tensor([0, 1, 1]))
        batch.target = None
        batch.patient = torch.full((3,), -1)
        mean = net(batch).mean
    np.testing.assert_allclose(mean, data.target[:3], atol=1e-3)


def test_masked_spots_do_not_swallow_the_weights_of_the_others() -> None:
    """Weights of what was found are relative to each other, however near what was not allowed is."""
    net = network(normalize=False, weighting="similarity", temperature=1e-3, k=40)
    queries = make(6, seed=1, patient=np.array([0, 1] * 3))
    found = predict_arrays(net, queries)
    mean, std = found.mean, found.std
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    np.testing.assert_allclose(mean, by_hand_nearest(net, queries), rtol=1e-4)


def by_hand_nearest(net: Any, queries: ArraySet) -> np.ndarray:
    """With so low a temperature, only the largest product counts."""
    with torch.no_grad():
        image = net.embed_images(queries.batch(np.arange(len(queries))))
        product = image @ (net.bank.keys * net.key_length[:, None]).T
        product[torch.from_numpy(queries.patient)[:, None] == net.bank.patient] = -torch.inf
        return net.bank.values[product.argmax(dim=1)].numpy()


def test_own_patient_is_looked_up_only_when_asked() -> None:
    data = make()
    data.target[data.patient == 1] += 100
    own, others = (network(data=data, k=5, same_patient=same) for same in (True, False))
    queries = make(8, seed=1, patient=np.array([0, 1, -1, -1] * 2))
    mean = predict_arrays(others, queries).mean
    assert (mean[queries.patient == 0] > 90).all()
    assert (mean[queries.patient == 1] < 50).all()
    free = predict_arrays(others, replace(queries, patient=np.full(8, -1))).mean
    np.testing.assert_allclose(predict_arrays(own, queries).mean, free)


def explained(model: str, data: ArraySet, apart: np.ndarray, *, patience: int, **changes: Any) -> tuple[float, Any]:
    """Mean share of the variance of each gene that a short fit explains of the rows that stand apart, and the network."""
    config = train_config(model, {"max_epochs": 3, "patience": patience, "batch_size": 60})
    fit = fit_arrays(model, data.take(~apart), hyperparameters=FEATURES | {"k": 3} | changes, config=config)
    test = data.take(apart)
    left = ((predict_arrays(fit.network, test).mean - test.target) ** 2).mean(axis=0)
    return float((1 - left / test.target.var(axis=0)).mean()), fit.network


@pytest.mark.parametrize("units", ["patients", "sections", "one section"])
@pytest.mark.parametrize("patience", [0, 1])  # slopes of training spots, and of held-out ones
@pytest.mark.parametrize("model", ["bleep", "mclstexp"])
def test_noise_that_was_averaged_is_not_taken_for_a_map(model: str, patience: int, units: str) -> None:
    n = 600
    noise = np.random.default_rng(3).normal(size=(n, GENES)).astype(np.float32)
    section = np.zeros(n, dtype=np.int64) if units == "one section" else np.arange(n) * 4 // n
    patient = section if units == "patients" else np.zeros(n, dtype=np.int64)
    data = make(n, target=noise, section=section, patient=patient)
    apart = np.arange(n) >= 450
    share, net = explained(model, data, apart, patience=patience, same_patient=units != "patients")
    assert share > -0.02
    assert net.facts()["shrinkage"]["fitted_on"] == ("held-out" if patience else "training")
    assert explained(model, data, apart, patience=patience, same_patient=True, shrink=False)[0] < -0.25


@pytest.mark.parametrize("patience", [0, 1])
def test_slopes_of_what_features_tell_are_high_and_leave_correlations_alone(patience: int) -> None:
    data = make(400, patient=np.arange(400) * 4 // 400)
    data.target[:, :3] = 3 + 2 * data["features"][:, :3] + data.target[:, :3] / 10
    apart = data.patient == 3
    config = train_config("bleep", {"max_epochs": 20, "patience": patience, "batch_size": 60})
    found = []
    for shrink in (True, False):
        options = FEATURES | {"k": 10, "shrink": shrink}
        net = fit_arrays("bleep", data.take(~apart), hyperparameters=options, config=config).network
        found.append(predict_arrays(net, data.take(apart)))
        if shrink:
            slope = net.shrinkage.slope.numpy()
    assert (slope[:3] > 0.8).all()
    assert slope[3:].mean() < 0.5
    shrunk, plain = found
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(shrunk.mean.T, plain.mean.T, strict=True)]
    np.testing.assert_allclose(r, 1, atol=1e-6)
    center = data.target[~apart].mean(axis=0)
    np.testing.assert_allclose(shrunk.mean, center + slope * (plain.mean - center), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shrunk.std, np.hypot(plain.std, plain.mean - shrunk.mean), rtol=1e-4, atol=1e-5)


def test_slopes_are_those_of_spots_that_the_bank_lacks() -> None:
    data = make(200, patient=np.arange(200) * 4 // 200)
    data.target[:, :3] += 2 * data["features"][:, :3]
    options = {"hyperparameters": FEATURES | {"k": 5}}
    config = train_config("bleep", {"max_epochs": 8, "patience": 8, "refit": False, "batch_size": 60})
    net = fit_arrays("bleep", data, config=config, **options).network
    held_out, unit = inner_split(data, config.validation_fraction, 0)
    assert unit == "patient"
    plain = fit_arrays("bleep", data.take(~held_out), config=replace(config, patience=0, max_epochs=1), **options)
    plain.network.load_state_dict({k: v for k, v in net.state_dict().items() if "projection" in k}, strict=False)
    plain.network.config = replace(plain.network.config, shrink=False)
    show_rows(plain.network, "finish", data.take(~held_out), device=torch.device("cpu"))
    x, y = predict_arrays(plain.network, data.take(held_out)).mean, data.target[held_out]
    expected = Shrinkage(GENES)
    section = torch.from_numpy(data.section[held_out])
    expected.fit([(torch.from_numpy(x), torch.from_numpy(y), section)], "held-out")
    torch.testing.assert_close(net.shrinkage.slope, expected.slope, rtol=1e-4, atol=1e-6)
    assert expected.slope.std() > 0.01


def test_one_spot_and_constant_genes() -> None:
    one = network(data=make(1), shrink=True)
    others = make(5, seed=1, patient=np.full(5, -1))
    np.testing.assert_allclose(predict_arrays(one, others).mean, np.repeat(make(1).target, 5, axis=0))
    constant = network(data=make(target=np.ones((N, GENES), np.float32)), shrink=True)
    np.testing.assert_allclose(predict_arrays(constant, make(5, seed=1)).mean, 1, rtol=1e-6)


def test_empty_bank_and_a_bank_of_the_own_patient_only_are_errors_that_say_what_to_do() -> None:
    data = make()
    torch.manual_seed(0)
    net = BLEEP(BLEEPConfig(**FEATURES), SHAPE)
    with pytest.raises(ValueError, match=r"empty retrieval bank.*stp\.tl\.fit"):
        predict_arrays(net, data)
    alone = network(data=replace(data, patient=np.zeros(N, dtype=np.int64)))
    with pytest.raises(ValueError, match="same_patient=True"):
        predict_arrays(alone, make(3, patient=np.array([-1, 0, -1])))
    assert predict_arrays(alone, make(3, patient=np.full(3, -1))).mean.shape == (3, GENES)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("model", ["bleep", "mclstexp"])
def test_loss_is_the_symmetric_cross_entropy(model: str, normalize: bool) -> None:
    net = network(model, normalize=normalize)
    batch = make(10).batch(np.arange(10))
    with torch.no_grad():
        prediction = net.train()(batch)
        parts = net.loss(prediction, batch)
    image, spot = (prediction.extras[name].double().numpy() for name in ("image", "spot"))
    temperature = 0.1 if normalize else 1.0
    target = np.eye(10)
    if model == "bleep":
        similar = np.exp((image @ image.T + spot @ spot.T) / 2 / temperature)
        target = similar / similar.sum(axis=1, keepdims=True)
    total = 0.0
    for logits in (spot @ image.T / temperature, image @ spot.T / temperature):
        log_share = logits - np.log(np.exp(logits - logits.max()).sum(axis=1, keepdims=True)) - logits.max()
        total -= (target * log_share).sum() / 10 / 2
    assert float(parts["total"]) == pytest.approx(total, rel=1e-4)
    torch.testing.assert_close(parts["total"], (parts["images"] + parts["spots"]) / 2)


def test_one_spot_has_nothing_to_be_told_apart_from() -> None:
    for model in CONFIGS:
        net = network(model).train()
        batch = make().batch(np.arange(1))
        loss = net.loss(net(batch), batch)["total"]
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_until_the_bank_is_filled_the_prediction_is_the_training_mean() -> None:
    batch = one_batch()
    net = BLEEP(BLEEPConfig(**FEATURES), SHAPE)
    net.target_mean.uniform_()
    for mode in (True, False):
        torch.testing.assert_close(net.train(mode)(batch).mean, net.target_mean.expand(12, -1))
    filled = network()
    with torch.no_grad():
        looked_up = filled.eval()(replace(batch, target=None)).mean
        torch.testing.assert_close(filled(batch).mean, looked_up)
        torch.testing.assert_close(filled.train()(batch).mean, filled.target_mean.expand(12, -1))


def test_the_bank_holds_the_whole_training_set_inner_validation_included() -> None:
    data = make()
    config = train_config("bleep", {"max_epochs": 2, "patience": 1})
    fit = fit_arrays("bleep", data, hyperparameters=FEATURES, config=config)
    assert fit.validated_on == "patient"
    np.testing.assert_array_equal(fit.network.bank.values, data.target)
    np.testing.assert_array_equal(fit.network.bank.patient, data.patient)
    assert not fit.network.bank.keys.requires_grad


@pytest.mark.parametrize("monitor", ["correlation", "loss_then_correlation"])
@pytest.mark.parametrize("model", ["bleep", "mclstexp"])
def test_the_epoch_is_not_chosen_by_a_correlation_that_is_not_there(model: str, monitor: str) -> None:
    with pytest.raises(ValueError, match=f"monitor='loss' for model '{model}'.*found '{monitor}'"):
        train_config(model, {"monitor": monitor})
    with pytest.raises(ValueError, match="monitor='loss'"):
        fit_arrays(model, make(), hyperparameters=FEATURES, config=train_config("mlp", {"monitor": monitor}))


def test_classes_are_not_looked_up() -> None:
    data = make(target=np.arange(N) % 2, kind=ClassTarget("kind", ("a", "b")))
    with pytest.raises(ValueError, match="no classes or outcomes"):
        fit_arrays("bleep", data, hyperparameters=FEATURES, config=train_config("bleep", {"max_epochs": 1}))


@pytest.mark.parametrize("model", ["bleep", "mclstexp"])
def test_inputs_follow_the_image_encoder(model: str) -> None:
    info = get_model(model)
    positions = {"positions"} if model == "mclstexp" else set()
    assert info.reads({}) == {"patches"} | positions
    assert info.reads({"image_encoder": "features"}) == {"features"} | positions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_encoder": "vit"}, "image_encoder"),
        ({"weighting": "median"}, "weighting"),
        ({"k": 0}, "k"),
        ({"temperature": 0.0}, "temperature"),
        ({"n_embedding": 0}, "n_embedding"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, Any], message: str) -> None:
    for cls, config in CONFIGS.values():
        with pytest.raises(ValueError, match=message):
            cls(config(**FEATURES | change), SHAPE)


@pytest.mark.parametrize(("image_encoder", "px"), [("densenet121", 32), ("resnet50", 45)])
def test_patches_of_any_size_in_chunks_as_at_once(image_encoder: str, px: int) -> None:
    patches = np.random.default_rng(0).integers(0, 256, (7, px, px, 3), dtype=np.uint8)
    data = make(7, given={"patches": patches})
    options = {"image_encoder": image_encoder, "k": 2, "n_embedding": 8}
    whole, parts = (network(data=data, chunk=chunk, **options) for chunk in (100, 3))
    np.testing.assert_allclose(predict_arrays(whole, data).mean, predict_arrays(parts, data).mean, rtol=1e-5, atol=1e-5)
    assert parts.body.n_outputs == {"densenet121": 1024, "resnet50": 2048}[image_encoder]
    one = data.batch(np.arange(1))
    loss = parts.train().loss(parts(one), one)["total"]  # one patch, batch norm and all
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)


def test_densenet_is_pooled_without_the_relu_of_its_classifier() -> None:
    assert network(image_encoder="densenet121").body.rectified is False


def test_training_in_chunks_computes_activations_again() -> None:
    """Batch norm aside, whose statistics are those of a chunk, chunks change no gradient."""
    data = make(8, patient=np.arange(8) % 2)
    gradients = []
    for chunk in (100, 3):
        net = network(data=data, image_encoder="resnet50", chunk=chunk, symmetries=False, stain_jitter=0.0)
        net.body = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(192, 2048))
        with torch.no_grad():
            for i, parameter in enumerate(net.body.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) / 20)
        calls: list[int] = []
        net.body.register_forward_hook(lambda module, given, out, calls=calls: calls.append(len(out)))
        net.train()
        batch = data.batch(np.arange(8))
        net.loss(net(batch), batch)["total"].backward()
        gradients.append(net.body[2].weight.grad)
        assert sorted(calls) == ([8] if chunk == 100 else [2, 2, 3, 3, 3, 3])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_chunks_are_of_about_the_same_size() -> None:
    sizes: list[int] = []
    found = in_chunks(lambda part: sizes.append(len(part)) or part * 2, torch.arange(9), 8, recompute=False)
    assert sizes == [5, 4]
    torch.testing.assert_close(found, torch.arange(9) * 2)


def test_patches_of_another_kind_are_refused() -> None:
    net = network(image_encoder="densenet121")
    with pytest.raises(TypeError, match="uint8"):
        net.embed_images(one_batch(patches=torch.zeros(12, 3, 32, 32)))
    with pytest.raises(ValueError, match="channels"):
        net.embed_images(one_batch(patches=torch.zeros(12, 32, 32, 3, dtype=torch.uint8)))


def test_image_encoder_starts_from_the_file(tmp_path) -> None:
    from stpredict.models.nn._resnet import ResNet50

    torch.manual_seed(1)
    body = ResNet50()
    torch.save(body.state_dict(), tmp_path / "w.pth")
    net = BLEEP(BLEEPConfig(weights=str(tmp_path / "w.pth")), Shape(GENES))
    net.load_initial_weights()
    torch.testing.assert_close(net.body.layer3[1].conv2.weight, body.layer3[1].conv2.weight)


@pytest.mark.parametrize("model", ["bleep", "mclstexp"])
def test_another_fit_starts_from_the_image_side_only(model: str) -> None:
    first = network(model)
    cls, config = CONFIGS[model]
    torch.manual_seed(5)
    other = cls(config(**FEATURES), Shape(GENES + 4, {"features": WIDTH}))
    before = other.spot_projection.projection.weight.clone()
    other.start_from(first)
    torch.testing.assert_close(other.image_projection.fc.weight, first.image_projection.fc.weight)
    torch.testing.assert_close(other.spot_projection.projection.weight, before)
    assert len(other.bank) == 0
    fit = fit_arrays(
        model,
        make(),
        hyperparameters=FEATURES,
        config=train_config(model, {"max_epochs": 1, "patience": 0}),
        init=first,
    )
    assert len(fit.network.bank) == N


def saved(net: Any, model: str, panel: int = GENES) -> FittedModel:
    genes = tuple(f"g{i}" for i in range(panel))
    return FittedModel(
        model=model, network=net, target=ExpressionTarget(genes, {"method": "log1p"}), history=pd.DataFrame(),
        features={"slots": {}, "scaling": "global"}, training=TrainingFacts(["a", "b"], n_obs=N),
    )  # fmt: skip


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("model", ["bleep", "mclstexp"])
def test_saved_and_loaded_model_predicts_the_same(model: str, normalize: bool, tmp_path) -> None:
    data = make()
    net = network(model, normalize=normalize, weighting="inverse_distance", k=9, shrink=normalize)
    loaded = FittedModel.load(saved(net, model).save(tmp_path / "model")).network
    before, after = predict_arrays(net, data), predict_arrays(loaded, data)
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.std, after.std)


def test_a_saved_bank_of_other_genes_is_refused(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    from stpredict.training._digests import add_digests

    path = saved(network(), "bleep").save(tmp_path / "model")
    state = load_file(path / "weights.safetensors")
    for change, said in (
        ({"bank.values": torch.zeros(N, GENES + 1)}, r"7 genes.*bank\.values"),
        ({"bank.values": state["bank.values"][:-1].clone()}, r"bank\.values"),
        ({"key_length": state["key_length"][:-1].clone()}, "key_length"),
    ):
        save_file(state | change, path / "weights.safetensors")
        add_digests(path, ["weights.safetensors"])
        with pytest.raises(ValueError, match=said):
            FittedModel.load(path)
