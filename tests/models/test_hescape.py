"""`hescape`: sizes, keys, the two objectives, batches of one patient, and what alignment learns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.models import Batch, Shape, get_model
from stpredict.models._hescape import HESCAPE, GenericGeneEncoder, HESCAPEConfig, PrincipalComponents
from stpredict.training import ArraySet, Loader, fit_arrays, predict_arrays, train_config, untrained

GENES, WIDTH = 12, 6
SMALL = {"n_embedding": 16, "depth": 1}
PAIRS = [("clip", "mlp"), ("siglip", "mlp"), ("clip", "pca"), ("siglip", "identity")]


def cohort(n: int = 240, seed: int = 0, noise: float = 0.5) -> ArraySet:
    """Four patients, one section each; the genes follow three of six features, with noise that is theirs alone."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, WIDTH)).astype(np.float32)
    effect = np.random.default_rng(1).normal(size=(3, GENES))
    target = 3 + features[:, :3] @ effect + rng.normal(0, noise, (n, GENES))
    code = np.arange(n) * 4 // n
    return ArraySet(code, code, {"features": features}, target=target.astype(np.float32))


def fitted(data: ArraySet, epochs: int = 30, **options: Any) -> Any:
    config = train_config("hescape", {"max_epochs": epochs, "patience": 0, "batch_size": 60, "learning_rate": 3e-3})
    return fit_arrays("hescape", data, hyperparameters=SMALL | options, config=config).network


def embedded(network: Any, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        return network.embed_images(batch).numpy(), network.embed_spots(batch, batch.target).numpy()


def test_generic_encoder_has_the_published_keys_and_size() -> None:
    with torch.device("meta"):
        encoder = GenericGeneEncoder(280, 128)
    keys = {name.rsplit(".", 1)[0] for name in encoder.state_dict()}
    hidden = {f"nn.{kind}_{i}" for kind in ("batchnorm", "linear") for i in range(3)}
    assert keys == {"nn.input", "nn.batchnorm_out"} | hidden
    assert sum(p.numel() for p in encoder.parameters()) == 86_528


def test_keys_of_the_pair_are_the_published_ones() -> None:
    with torch.device("meta"):
        net = HESCAPE(
            HESCAPEConfig(objective="siglip", image_head="mlp", gene_head="mlp"), Shape(280, {"features": 1024})
        )
    trained = {name for name, _ in net.named_parameters()}
    starts = ("image_encoder.head.", "gexp_encoder.trunk.", "gexp_encoder.head.")
    assert {name for name in trained if not name.startswith(starts)} == {"logit_scale", "logit_bias"}
    sizes = [tuple(p.shape) for name, p in net.named_parameters() if name.startswith("image_encoder.head")]
    assert sizes == [(256, 1024), (256,), (128, 256), (128,), (128,), (128,)]


def test_defaults_and_the_published_recipe() -> None:
    assert train_config("hescape").monitor == "loss"
    published = train_config("hescape", hyperparameters="paper")
    found = (published.learning_rate, published.weight_decay, published.batch_size, published.gradient_clip)
    assert found == (1e-5, 1e-2, 64, 5.0)
    assert (published.schedule, published.patience, published.min_delta) == ("cosine", 5, 0.01)
    assert get_model("hescape").reads() == {"features"}


@pytest.mark.parametrize(("objective", "encoder"), PAIRS)
def test_embeddings_have_length_1_and_scales_stay_in_bounds(objective: str, encoder: str) -> None:
    """Also where the start asks for more, and in steps that push outwards."""
    config = HESCAPEConfig(objective=objective, gene_encoder=encoder, temperature=1e-9, **SMALL)
    net = HESCAPE(config, Shape(GENES, {"features": WIDTH})).train()
    optimizer = torch.optim.SGD([net.logit_scale], lr=1.0)
    data = cohort(16)
    batch = data.batch(np.arange(16))
    if encoder == "pca":
        net.remember([batch])
    for push in (-50.0, 50.0, -3.0):
        prediction = net(batch)
        loss = net.loss(prediction, batch)["total"] + push * net.logit_scale
        for embedding in prediction.extras.values():
            np.testing.assert_allclose(embedding.detach().norm(dim=1), 1, atol=1e-5)
        assert math.isfinite(float(loss.detach()))
        scale = 1 / float(net.temperature.detach())
        assert 1 <= scale <= 100 + 1e-4
        logits = net.logits(prediction.extras["spot"], prediction.extras["image"])
        assert float(logits.detach().abs().max()) <= scale + 1e-4  # cosines times the scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.finish([data.batch(np.arange(16))])
    assert 0 <= float(net.logit_scale.detach()) <= math.log(100) + 1e-6
    if objective == "siglip":
        assert float(net.logit_bias.detach()) == -10


def test_losses_equal_loops() -> None:
    torch.manual_seed(0)
    batch = cohort(9).batch(np.arange(9))
    for objective in ("clip", "siglip"):
        net = HESCAPE(HESCAPEConfig(objective=objective, **SMALL), Shape(GENES, {"features": WIDTH})).eval()
        image, spot = (e.astype(np.float64) for e in embedded(net, batch))
        logits = spot @ image.T / 0.07
        if objective == "siglip":
            pairs = [np.log1p(np.exp(-(1 if i == j else -1) * (logits[i, j] - 10))) for i in range(9) for j in range(9)]
            expected = sum(pairs) / 9
        else:
            rows = [np.log(np.exp(m[i]).sum()) - m[i, i] for m in (logits, logits.T) for i in range(9)]
            expected = np.mean(rows)
        with torch.no_grad():
            np.testing.assert_allclose(float(net.loss(net(batch), batch)["total"]), expected, rtol=1e-4)


@pytest.mark.parametrize(("objective", "encoder"), PAIRS)
def test_every_parameter_learns(objective: str, encoder: str) -> None:
    torch.manual_seed(0)
    config = HESCAPEConfig(objective=objective, gene_encoder=encoder, image_head="mlp", gene_head="mlp", **SMALL)
    net = HESCAPE(config, Shape(GENES, {"features": WIDTH})).train()
    batch = cohort(32).batch(np.arange(32))
    net.remember([batch])
    net.loss(net(batch), batch)["total"].backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("encoder", ["mlp", "pca", "identity"])
def test_an_embedding_does_not_depend_on_the_batch(encoder: str) -> None:
    data = cohort(60)
    net = untrained("hescape", data, hyperparameters=SMALL | {"gene_encoder": encoder}, seed=0).network
    whole = embedded(net, data.batch(np.arange(60)))
    for index in (np.array([3]), np.array([3, 59, 20])):
        for found, all_rows in zip(embedded(net, data.batch(index)), whole, strict=True):
            np.testing.assert_allclose(found, all_rows[index], atol=1e-5)


def test_principal_components_are_those_of_the_rows() -> None:
    values = np.random.default_rng(0).normal(size=(200, 5)) @ np.diag([9, 5, 3, 1, 0.5]) @ np.ones((5, 8))
    values = values + np.random.default_rng(1).normal(size=(200, 8)) * np.arange(1, 9)
    values -= values.mean(axis=0)
    torch.manual_seed(0)
    trunk = PrincipalComponents(8, 3)
    trunk.take(torch.from_numpy(values).float())
    found = trunk(torch.from_numpy(values).float()).numpy()
    u = np.linalg.svd(values, full_matrices=False)[0][:, :3] * np.sqrt(200)
    np.testing.assert_allclose(np.abs(found.T @ u) / 200, np.eye(3), atol=1e-3)
    flat = PrincipalComponents(8, 6)
    flat.take(torch.from_numpy(values[:3] - values[:3].mean(axis=0)).float())  # of rank 2
    assert (flat.components.abs().sum(dim=0) > 0).tolist() == [True, True, False, False, False, False]


def test_batches_of_one_patient() -> None:
    data = replace(cohort(100), patient=np.repeat([0, 1, 2], [50, 43, 7]))
    seen = []
    loader = Loader(data, "patient_rows", batch_size=20, shuffle=True)
    for batch in loader:
        assert len(batch.patient.unique()) == 1
        assert len(batch) >= 7
        seen += batch["features"][:, 0].tolist()
    assert sorted(seen) == sorted(data["features"][:, 0].tolist())
    assert len(loader) == len(list(loader)) == 7
    net = HESCAPE(HESCAPEConfig(batches="within", **SMALL), Shape(GENES, {"features": WIDTH}))
    assert (net.draws, HESCAPE.draws) == ("patient_rows", "rows")
    lone = replace(cohort(5), patient=np.arange(5))
    assert fitted(lone, epochs=2, batches="within").training is False  # batches of one row train as well


@pytest.mark.parametrize(("objective", "encoder"), PAIRS)
@pytest.mark.parametrize("batches", ["across", "within"])
def test_finds_the_expression_of_other_patients(
    objective: str, encoder: str, batches: str, record_property: Any
) -> None:
    from stpredict.metrics import recall_at_k

    torch.set_num_threads(1)
    data = cohort()
    net = fitted(data.take(data.patient < 3), objective=objective, gene_encoder=encoder, batches=batches)
    test = data.take(data.patient == 3)
    image, spot = embedded(net, test.batch(np.arange(len(test))))
    chance = 5 / len(test)
    found = [recall_at_k(*pair, 5).mean() / chance for pair in ((image, spot), (spot, image))]
    error = ((predict_arrays(net, test).mean - test.target) ** 2).mean() / test.target.var(axis=0).mean()
    record_property("printed", f"{objective}, {encoder}, {batches}: {min(found):.1f} times chance, error {error:.2f}")
    assert min(found) > 4
    assert error < 0.9


def test_settings_that_cannot_be_are_refused() -> None:
    shape = Shape(GENES, {"features": WIDTH})
    for name in ("objective", "gene_encoder", "image_head", "gene_head", "batches", "weighting"):
        with pytest.raises(ValueError, match=f"expected {name} to be one of"):
            HESCAPE(HESCAPEConfig(**{name: "other"}), shape)
    for name in ("n_components", "temperature", "k", "n_embedding"):
        with pytest.raises(ValueError, match=f"expected {name} to be a positive number"):
            HESCAPE(HESCAPEConfig(**{name: 0}), shape)
    with pytest.raises(ValueError, match="found one of 50; take 'linear'"):
        HESCAPE(HESCAPEConfig(gene_encoder="pca", gene_head="identity"), Shape(99, {"features": WIDTH}))
