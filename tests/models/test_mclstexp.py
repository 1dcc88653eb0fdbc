"""`mclstexp`: sizes, neighborhoods, what it learns, and sections of 5,000 spots."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.models import Batch, Shape
from stpredict.models import _mclstexp as module
from stpredict.models._mclstexp import MclSTExp, MclSTExpConfig, OffsetEmbedding, neighborhoods
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

GENES, SIDE = 12, 8
SMALL = {"image_encoder": "features", "k": 15, "n_embedding": 32, "width": 24, "heads": 2, "dim_head": 8}


def cohort(seed: int = 0) -> ArraySet:
    """Four patients, one section of 8 × 8 spots each; the genes follow two of six features."""
    rng = np.random.default_rng(seed)
    n = 4 * SIDE**2
    features = rng.normal(size=(n, 6)).astype(np.float32)
    effect = np.random.default_rng(1).normal(size=(2, GENES))
    target = 3 + features[:, :2] @ effect + rng.normal(0, 0.5, (n, GENES))
    code = np.arange(n) // SIDE**2
    place = np.arange(n) % SIDE**2
    positions = 200.0 * np.column_stack([place % SIDE, place // SIDE])
    inputs = {"positions": positions.astype(np.float32), "features": features}
    return ArraySet(code, code, inputs, target=target.astype(np.float32))


def network(**changes: Any) -> MclSTExp:
    torch.manual_seed(0)
    net = MclSTExp(MclSTExpConfig(**SMALL | changes), Shape(GENES, {"features": 6}))
    return net.eval()


def section(rows: np.ndarray | None = None) -> Batch:
    return cohort().batch(np.arange(SIDE**2) if rows is None else rows)


def spots(net: MclSTExp, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return net.embed_spots(batch, batch.target)


def shown(batch: Batch, order: np.ndarray) -> Batch:
    inputs = {name: values[order] for name, values in batch.inputs.items()}
    return Batch(batch.section[order], batch.patient[order], inputs, target=batch.target[order])


def placed(batch: Batch, positions: torch.Tensor) -> Batch:
    return replace(batch, inputs=batch.inputs | {"positions": positions})


@pytest.fixture(scope="module")
def trained() -> tuple[Any, ArraySet]:
    torch.set_num_threads(1)
    data = cohort()
    config = train_config("mclstexp", {"max_epochs": 60, "patience": 0, "learning_rate": 3e-3})
    fit = fit_arrays("mclstexp", data.take(data.patient < 3), hyperparameters=SMALL, config=config)
    return fit, data.take(data.patient == 3)


def test_defaults_are_those_of_the_paper() -> None:
    config = MclSTExpConfig()
    assert (config.image_encoder, config.k, config.n_embedding) == ("densenet121", 200, 256)
    assert (config.depth, config.heads, config.dim_head, config.width) == (2, 8, 64, 0)
    assert (config.weighting, config.same_patient) == ("inverse_distance", False)
    settings = train_config("mclstexp")
    assert (settings.optimizer, settings.learning_rate, settings.weight_decay) == ("adam", 1e-4, 1e-3)
    assert settings.max_epochs == 90


def test_published_sizes() -> None:
    with torch.device("meta"):
        net = MclSTExp(MclSTExpConfig(), Shape(785))
    assert len(net.spot_encoder) == 2
    for block in net.spot_encoder:
        assert block.attention_norm.weight.shape == (785,)
        assert block.to_qkv.weight.shape == (1536, 785)
        assert block.to_qkv.bias is None
        assert block.to_out[0].weight.shape == (785, 512)
        assert [m.weight.shape for m in block.feed_forward if isinstance(m, torch.nn.Linear)] == [(785, 785)] * 2
    assert net.image_projection.projection.weight.shape == (256, 1024)
    assert net.spot_projection.projection.weight.shape == (256, 785)
    embedding = sum(p.numel() for p in net.spot_offset.parameters())
    assert embedding < 65_536 * 785 / 50  # no row for every coordinate


def test_neighborhoods_are_the_nearest_spots_of_the_own_section() -> None:
    data = cohort()
    positions, code = torch.from_numpy(data["positions"]), torch.from_numpy(data.section)
    members = neighborhoods(positions, code, 12)
    assert members.shape == (len(data), 13)
    assert (code[members] == code[:, None]).all()
    assert (members[:, 0] == torch.arange(len(data))).all()
    steps = (positions[members] - positions[:, None]).abs().sum(dim=2) / 200
    assert (steps <= 2).all()  # at the border fewer neighbors, not farther ones
    corner = members[0]
    assert (corner == 0).sum() == 1 + 12 - 5
    inner = 3 * SIDE + 3
    assert sorted(steps[inner].tolist()) == [0] + [1] * 4 + [2] * 8


def test_a_spot_is_embedded_the_same_in_any_batch_order_and_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference attends to whichever spots share the batch."""
    net, rows = network(), SIDE**2
    alone = spots(net, section())
    rng = np.random.default_rng(0)
    order = rng.permutation(rows)
    torch.testing.assert_close(spots(net, shown(section(), order)), alone[order], atol=1e-5, rtol=1e-5)
    everything = cohort().batch(np.arange(4 * rows))
    mixed = rng.permutation(4 * rows)
    together = spots(net, shown(everything, mixed))[np.argsort(mixed)[:rows]]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(module, "_NEIGHBORHOODS", 5)
    torch.testing.assert_close(spots(net, section()), alone, atol=1e-5, rtol=1e-5)
    moved = placed(section(), section()["positions"] + torch.tensor([12_000.0, -3_000.0]))
    torch.testing.assert_close(spots(net, moved), alone, atol=1e-4, rtol=1e-4)


def test_an_embedding_depends_on_the_neighbors_and_on_nothing_farther_away() -> None:
    net, batch = network(), section()
    before = spots(net, batch)
    batch.target[0] += 3
    changed = (spots(net, batch) - before).abs().amax(dim=1) > 1e-6
    steps = batch["positions"].abs().sum(dim=1) / 200
    assert changed[steps <= 1].all()
    assert not changed[steps > 4].any()


def test_places_around_a_spot_are_told_apart() -> None:
    torch.manual_seed(0)
    embed = OffsetEmbedding(8)
    offsets = torch.tensor([[0.0, 0], [200, 0], [0, 200], [-200, 0], [400, 0]]).expand(3, 5, 2)
    with torch.no_grad():
        found = embed(offsets)
        assert found.shape == (3, 5, 8)
        apart = torch.cdist(found[0], found[0]) + torch.eye(5)
        assert (apart > 0.05).all()
        assert (embed(offsets + 0.1) - found).abs().max() < 0.02
    net, batch = network(), section()
    mirrored = placed(batch, batch["positions"] * torch.tensor([-1.0, 1.0]))
    assert (spots(net, mirrored) - spots(net, batch)).abs().max() > 1e-3


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_and_far_spots_give_numbers(n: int) -> None:
    batch = section(np.arange(n))
    far = placed(section(), section()["positions"] + torch.tensor([[1e6, 0.0]]) * (torch.arange(64) == 5)[:, None])
    for part in (batch, far, placed(batch, torch.zeros(n, 2))):
        net = network().train()
        loss = net.loss(net(part), part)["total"]
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    with torch.no_grad():  # alone but for itself
        net = network()
        torch.testing.assert_close(spots(net, far)[5], spots(net, section(np.array([5])))[0], atol=1e-5, rtol=1e-5)


def test_every_parameter_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the activations of neighborhoods are computed again; and to the same gradients."""
    gradients = []
    for chunk in (512, 30):
        monkeypatch.setattr(module, "_NEIGHBORHOODS", chunk)
        net, batch = network(dropout=0.0).train(), section()
        net.loss(net(batch), batch)["total"].backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
        gradients.append(net.spot_encoder[0].to_qkv.weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
    wide, batch = network(width=0, image_encoder="densenet121").train(), section(np.arange(6))
    batch.inputs["patches"] = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    wide.loss(wide(batch), batch)["total"].backward()
    assert [name for name, p in wide.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_learns_what_other_patients_share(trained) -> None:
    fit, test = trained
    found = predict_arrays(fit.network, test)
    mean, std = found.mean, found.std
    assert ((mean - test.target) ** 2).mean() < 0.6 * test.target.var(axis=0).mean()
    ratio = mean.var(axis=0) / test.target.var(axis=0)
    assert (ratio > 0.1).all()
    assert (ratio < 1.2).all()
    assert (std > 0).all()


def test_order_of_the_spots_changes_nothing(trained) -> None:
    fit, test = trained
    mean = predict_arrays(fit.network, test).mean
    order = np.random.default_rng(0).permutation(len(test))
    np.testing.assert_allclose(predict_arrays(fit.network, test.take(order)).mean, mean[order], atol=1e-5)
    np.testing.assert_array_equal(predict_arrays(fit.network, test).mean, mean)


def test_a_section_of_5000_spots_stays_small(memory_grown_by) -> None:
    rng = np.random.default_rng(0)
    n, genes = 5000, 60
    inputs = {
        "positions": rng.uniform(0, 7000, (n, 2)).astype(np.float32),
        "features": rng.normal(size=(n, 8)).astype(np.float32),
    }
    target = rng.normal(size=(n, genes)).astype(np.float32)
    data = ArraySet(np.zeros(n, dtype=np.int64), np.arange(n) % 2, inputs, target=target)
    config = MclSTExpConfig(image_encoder="features", heads=2, n_embedding=16, k=50)
    net, found = MclSTExp(config, Shape(genes, {"features": 8})).eval(), {}

    def predict():
        with torch.no_grad():
            net.finish([data.batch(np.arange(n))])
        found["mean"] = predict_arrays(net, data).mean

    assert memory_grown_by(predict) < 0.5e9
    assert found["mean"].shape == (n, genes)
    assert np.isfinite(found["mean"]).all()
