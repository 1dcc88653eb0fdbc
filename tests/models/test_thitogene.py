"""THItoGene."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stpredict.models import Batch, Shape, get_model
from stpredict.models._thitogene import THItoGene, THItoGeneConfig
from stpredict.models.nn._graph import spatial_neighbors
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

PX, GENES = 16, 4
SMALL = THItoGeneConfig(
    capsules=4, dim_capsule=8, depth=1, heads=2, dim_head=8, mlp_dim=32, graph_heads=2, graph_dim=8, graph_outputs=12,
    hidden=16, dropout=0.1, patch_px=PX, symmetries=False, stain_jitter=0.0,
)  # fmt: skip


def network(**changes):
    torch.manual_seed(0)
    net = THItoGene(replace(SMALL, **changes), Shape(GENES))
    torch.nn.init.normal_(net.head.mean.weight, std=0.3)
    return net


def batch(n=12, px=PX, seed=0, **changes):
    rng = np.random.default_rng(seed)
    none = torch.zeros(n, dtype=torch.long)
    inputs = {
        "patches": torch.tensor(rng.integers(0, 256, (n, 3, px, px)), dtype=torch.uint8),
        "positions": torch.tensor(rng.uniform(0, 1000, (n, 2))).float(),
    }
    target = torch.tensor(rng.normal(size=(n, GENES))).float()
    inputs["counts"] = torch.tensor(rng.poisson(2, (n, GENES))).float()
    inputs["size_factor"] = torch.tensor(rng.uniform(0.5, 2, n)).float()
    return Batch(none, none, inputs | changes, target=target)


def rows(data, index):
    inputs = {name: values[index] for name, values in data.inputs.items()}
    return Batch(data.section[index], data.patient[index], inputs, target=data.target[index])


def test_defaults_are_the_published_sizes():
    with torch.device("meta"):
        net = THItoGene(THItoGeneConfig(), Shape(785))
        embedded = net.embed(torch.empty(2, 3, 112, 112))
    assert embedded.shape == (2, 20 * 64)
    assert net.convolution.weight.shape == (4, 16, 3, 4, 4)
    assert net.capsules.whole.shape == (128, 9, 9)
    assert net.capsules.routing.weight.shape == (16, 8, 20, 64)
    assert net.position_embedding.net[-1].out_features == 2 * 64
    assert len(net.blocks) == 4
    assert net.blocks[0].heads == 16
    assert net.blocks[0].to_qkv.weight.shape == (3 * 16 * 64, 1408)
    assert net.blocks[0].feed_forward[1].weight.shape == (2048, 1408)
    assert (net.over_neighbors.heads, net.over_heads.heads) == (8, 1)
    assert net.over_neighbors.lin.weight.shape == (8 * 1024, 1408)
    assert net.over_heads.lin.weight.shape == (512, 8 * 1024)
    assert net.over_neighbors.slope == net.over_heads.slope == 0.01
    assert net.hidden[0].weight.shape == (1024, 512)
    assert net.head.mean.weight.shape == (785, 1024)
    assert {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}
    config = THItoGeneConfig()
    assert (config.neighbors, config.zinb, config.views) == (4, 0, 0)
    assert net.needs == {"patches", "positions"}


def test_training_defaults_are_published_ones():
    config = train_config("thitogene")
    assert (config.optimizer, config.learning_rate, config.max_epochs) == ("adam", 1e-5, 300)
    assert get_model("thitogene").cls.draws == "sections"
    assert not get_model("thitogene").cls.several_sections


@pytest.mark.parametrize("px", [4, 9, 30, 43, 44, 57])
def test_any_patch_size(px):
    net = network(patch_px=px).eval()
    mean = net(batch(px=px)).mean
    assert mean.shape == (12, GENES)
    assert torch.isfinite(mean).all()


def test_patches_of_another_size_are_named():
    with pytest.raises(ValueError, match=r"patches of 16 x 16 pixels; found 30 x 30; .*patch_px=16"):
        network()(batch(px=30))
    with pytest.raises(ValueError, match="patch_px of at least 4; found 3"):
        network(patch_px=3)


@torch.no_grad()
def test_equals_its_layers_one_by_one():
    net, data = network().eval(), batch()
    pixels = data["patches"].float() / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    capsules = net.capsules(F.relu(net.convolution(pixels)))
    positions = net.position_embedding(data["positions"]).unflatten(1, (2, 8))
    values = net.blocks[0](torch.cat([capsules, positions], dim=1).flatten(1))
    links = spatial_neighbors(data["positions"], 4)
    values = F.elu(net.over_heads(F.elu(net.over_neighbors(values, *links)), *links))
    values = net.norm(F.relu(net.hidden[0](values)))
    torch.testing.assert_close(net(data).mean, net.head.mean(values), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_order_of_spots_only_orders_the_predictions():
    net, data = network().eval(), batch()
    grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="ij"), dim=-1).reshape(-1, 2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for positions in (data["positions"], 200 * grid):  # on a lattice, neighbors are equally near
        data.inputs["positions"] = positions
        torch.testing.assert_close(net(rows(data, order)).mean, net(data).mean[order], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_neighbors_matter_through_the_graph():
    """Without a transformer, a spot is changed by what is within two steps of it and by nothing else."""
    net = network(depth=0, neighbors=2).eval()
    line = torch.stack([torch.arange(12.0) * 100, torch.zeros(12)], dim=1)
    data = batch(positions=line)
    plain = net(data).mean
    data.inputs["patches"] = data["patches"].clone()
    data["patches"][0] = 255 - data["patches"][0]
    change = (net(data).mean - plain).abs().amax(dim=1)
    assert (change[:3] > 1e-6).all()
    assert (change[4:] == 0).all()


@torch.no_grad()
def test_prediction_draws_nothing():
    net, data = network(dropout=0.5, symmetries=True, stain_jitter=0.2), batch()
    assert not torch.equal(net.train()(data).mean, net(data).mean)
    assert torch.equal(net.eval()(data).mean, net(data).mean)


@torch.no_grad()
def test_chunks_predict_the_same():
    data = batch()
    whole, parts = (network(chunk=chunk).eval()(data).mean for chunk in (100, 5))
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["one spot", "isolated spot", "far apart", "one place", "white"])
def test_odd_sections_give_finite_predictions_and_gradients(case):
    data = batch(1) if case == "one spot" else batch()
    if case == "isolated spot":
        data["positions"][0] = 1e6
    elif case == "far apart":
        data["positions"][:6] += 1e5
    elif case == "one place":
        data["positions"][:] = 5.0
    elif case == "white":
        data["patches"][:] = 255
    net = network().train()
    net.loss(net(data), data)["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    with torch.no_grad():
        assert torch.isfinite(net.eval()(data).mean).all()


@pytest.mark.parametrize("changes", [{}, {"zinb": 0.25, "views": 2, "stain_jitter": 0.2}])
def test_every_parameter_learns(changes):
    net = network(**changes).train()
    net.loss(net(batch()), batch())["total"].backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert set(idle) <= {"view_weight.2.bias"}  # a weight common to all views


def colored_sections(n_patients=6, side=6, seed=0):
    """A section per patient; its quarters differ in color, and genes follow the color."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), side**2)
    row, col = np.divmod(np.arange(side**2), side)
    grid = np.tile(np.stack([row, col], axis=1), (n_patients, 1)) * 200.0
    tone = rng.uniform(60, 220, (n_patients, 4, 3))[:, 2 * (row * 2 // side) + col * 2 // side].reshape(-1, 3)
    patches = np.clip(tone[:, None, None] + rng.normal(0, 6, (len(tone), PX, PX, 3)), 0, 255).astype(np.uint8)
    target = tone / 50 @ np.random.default_rng(9).normal(size=(3, GENES)) + rng.normal(0, 0.2, (len(tone), GENES))
    return ArraySet(
        patient, patient, {"positions": grid.astype(np.float32), "patches": patches},
        target=target.astype(np.float32),
    )  # fmt: skip


def test_learns_what_holds_in_other_patients():
    data = colored_sections()
    train = data.patient < 5
    changes = {"max_epochs": 40, "patience": 0, "learning_rate": 2e-3}
    options = {f.name: getattr(SMALL, f.name) for f in fields(SMALL)}
    fit = fit_arrays(
        "thitogene", data.take(train), hyperparameters=options, config=train_config("thitogene").updated(changes)
    )
    mean = predict_arrays(fit.network, data.take(~train)).mean
    target = data.target[~train]
    error = ((mean - target) ** 2).mean()
    baseline = ((data.target[train].mean(axis=0) - target) ** 2).mean()
    assert error < 0.7 * baseline
    correlation = [np.corrcoef(mean[:, g], target[:, g])[0, 1] for g in range(GENES)]
    assert np.mean(correlation) > 0.6
