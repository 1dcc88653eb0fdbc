"""HisToGene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stpredict.models import Batch, Shape, get_model
from stpredict.models._histogene import HisToGene, HisToGeneConfig
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

PX, GENES = 8, 4
SMALL = HisToGeneConfig(dim=24, depth=2, heads=2, dim_head=8, patch_px=PX, symmetries=False, stain_jitter=0.0)


def network(**changes):
    torch.manual_seed(0)
    net = HisToGene(replace(SMALL, **changes), Shape(GENES))
    torch.nn.init.normal_(net.head.mean.weight, std=0.3)
    return net


def batch(n=12, px=PX, seed=0, **changes):
    rng = np.random.default_rng(seed)
    none = torch.zeros(n, dtype=torch.long)
    inputs = {
        "patches": torch.tensor(rng.integers(0, 256, (n, 3, px, px)), dtype=torch.uint8),
        "positions": torch.tensor(rng.uniform(0, 3000, (n, 2))).float(),
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
        net = HisToGene(HisToGeneConfig(), Shape(785))
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()}
    assert sizes["patch_embedding"] == 3 * 112 * 112 * 1024 + 1024
    assert len(net.blocks) == 8
    block = 2 * 1024 + 4 * 1024 * 1024 + 1024 + 2 * 1024 + 2 * 1024 * 2048 + 2048 + 1024
    assert sizes["blocks"] == 8 * block  # 67.2 M, as the reference prints
    assert sizes["norm"] + sizes["head"] == 2 * 1024 + 1024 * 785 + 785
    assert net.blocks[0].heads == 16
    assert {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}
    config = HisToGeneConfig()
    assert (config.zinb, config.views) == (0, 0)
    assert net.needs == {"patches", "positions"}


def test_training_defaults_are_published_ones():
    config = train_config("histogene")
    assert (config.optimizer, config.learning_rate, config.max_epochs) == ("adam", 1e-5, 100)
    assert get_model("histogene").cls.draws == "sections"
    assert not get_model("histogene").cls.several_sections


@pytest.mark.parametrize("px", [1, 5, 8, 13])
def test_any_patch_size(px):
    net = network(patch_px=px).eval()
    mean = net(batch(px=px)).mean
    assert mean.shape == (12, GENES)
    assert torch.isfinite(mean).all()


def test_patches_of_another_size_are_named():
    with pytest.raises(ValueError, match=r"patches of 8 x 8 pixels; found 13 x 13; .*patch_px=8"):
        network()(batch(px=13))


@torch.no_grad()
def test_equals_its_layers_one_by_one():
    net, data = network().eval(), batch()
    pixels = (data["patches"].double() / 255).permute(0, 2, 3, 1)
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    values = F.linear(pixels.permute(0, 3, 1, 2).flatten(1).float(), *net.patch_embedding.parameters())
    values = values + net.position_embedding(data["positions"])
    values = net.blocks[1](net.blocks[0](values))
    torch.testing.assert_close(net(data).mean, net.head.mean(net.norm(values)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_order_of_spots_only_orders_the_predictions():
    net, data = network().eval(), batch()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(rows(data, order)).mean, net(data).mean[order], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_spots_see_each_other_and_where_they_are():
    net, data = network().eval(), batch()
    plain = net(data).mean
    other = rows(data, torch.arange(12))
    other.inputs["patches"] = data["patches"].clone()
    other["patches"][0] = 255 - other["patches"][0]
    assert (net(other).mean[1:] - plain[1:]).abs().max() > 1e-5
    moved = batch(positions=data["positions"].flip(0))
    assert (net(moved).mean - plain).abs().max() > 1e-4
    away = batch(positions=data["positions"] + 7000)
    torch.testing.assert_close(net(away).mean, plain, atol=1e-3, rtol=1e-3)


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


@pytest.mark.parametrize("case", ["one spot", "isolated spot", "far apart", "one place"])
def test_odd_sections_give_finite_predictions_and_gradients(case):
    data = batch(1) if case == "one spot" else batch()
    if case == "isolated spot":
        data["positions"][0] = 1e6
    elif case == "far apart":
        data["positions"][:6] += 1e5
    elif case == "one place":
        data["positions"][:] = 5.0
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


def colored_sections(n_patients=4, side=6, seed=0):
    """A section per patient; colors change smoothly over it, and genes follow them."""
    rng = np.random.default_rng(seed)
    per_section = side**2
    patient = np.repeat(np.arange(n_patients), per_section)
    grid = np.tile(np.stack(np.divmod(np.arange(per_section), side), axis=1), (n_patients, 1)) * 200.0
    wave = rng.normal(0, 0.004, (n_patients, 2, 3))[patient]
    phase = rng.uniform(0, 6, (n_patients, 3))[patient]
    tone = (
        140 + 50 * np.sin(np.einsum("ni,nic->nc", grid, wave) + phase) + rng.uniform(-10, 10, (n_patients, 3))[patient]
    )
    patches = np.clip(tone[:, None, None] + rng.normal(0, 6, (len(tone), PX, PX, 3)), 0, 255).astype(np.uint8)
    target = tone / 50 @ np.random.default_rng(9).normal(size=(3, GENES)) + rng.normal(0, 0.2, (len(tone), GENES))
    return ArraySet(
        patient, patient, {"positions": grid.astype(np.float32), "patches": patches},
        target=target.astype(np.float32),
    )  # fmt: skip


def test_learns_what_holds_in_other_patients():
    data = colored_sections()
    train = data.patient < 3
    changes = {"max_epochs": 30, "patience": 0, "learning_rate": 2e-3}
    options = {name: getattr(SMALL, name) for name in ("dim", "depth", "heads", "dim_head", "patch_px")}
    fit = fit_arrays(
        "histogene", data.take(train), hyperparameters=options, config=train_config("histogene").updated(changes)
    )
    mean = predict_arrays(fit.network, data.take(~train)).mean
    target = data.target[~train]
    error = ((mean - target) ** 2).mean()
    baseline = ((data.target[train].mean(axis=0) - target) ** 2).mean()
    assert error < 0.3 * baseline
    correlation = [np.corrcoef(mean[:, g], target[:, g])[0, 1] for g in range(GENES)]
    assert np.mean(correlation) > 0.8
