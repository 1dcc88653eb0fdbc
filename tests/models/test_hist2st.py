"""Hist2ST."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stpredict.models import Batch, Shape, get_model
from stpredict.models._hist2st import Hist2ST, Hist2STConfig, _GraphSAGE
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

PX, GENES, DIM = 28, 4, 32
SIZES = {
    "dim": DIM, "side": 4, "channels": 6, "kernel": 3, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 16,
    "graph_depth": 3, "patch_px": PX, "dropout": 0.0, "symmetries": False, "stain_jitter": 0.0, "zinb": 0.0, "views": 0,
}  # fmt: skip
SMALL = Hist2STConfig(**SIZES)


def network(**changes):
    torch.manual_seed(0)
    net = Hist2ST(replace(SMALL, **changes), Shape(GENES))
    torch.nn.init.normal_(net.head.mean.weight, std=0.3)
    return net


def batch(n=12, px=PX, seed=0, **changes):
    rng = np.random.default_rng(seed)
    none = torch.zeros(n, dtype=torch.long)
    row, column = np.divmod(np.arange(n), 4)
    inputs = {
        "patches": torch.tensor(rng.integers(0, 256, (n, 3, px, px)), dtype=torch.uint8),
        "positions": torch.tensor(np.stack([column, row], axis=1) * 200.0).float(),
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
        net = Hist2ST(Hist2STConfig(), Shape(785))
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()}
    assert sizes["patch_embedding"] == 3 * 32 * 7 * 7 + 32
    within, across = 2 * (32 * 25 + 2 * 32), 32 * 32 + 32 + 2 * 32
    assert sizes["mixers"] == 2 * (within + across)
    assert sizes["down"] == 32 * 4 + 4
    block = 2 * 1024 + 4 * 1024 * 1024 + 1024 + 2 * 1024 + 2 * 1024 * 1024 + 2 * 1024
    assert sizes["blocks"] == 8 * block
    assert sizes["graph"] == 4 * 1024 * 1024
    assert sizes["lstm"] == 2 * (2 * 4 * 1024 * 1024 + 2 * 4 * 1024)
    assert sizes["norm"] + sizes["head"] == 2 * 1024 + 1024 * 785 + 785
    assert net.blocks[0].heads == 16
    assert {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}
    assert (net.config.zinb, net.config.views, net.config.distill, net.config.neighbors) == (0.25, 5, 0.5, 4)
    assert net.needs == {"patches", "positions", "counts", "size_factor"}


def test_training_defaults_are_published_ones():
    config = train_config("hist2st")
    assert (config.optimizer, config.learning_rate, config.weight_decay, config.max_epochs) == ("adam", 1e-5, 0, 350)
    assert get_model("hist2st").cls.draws == "sections"
    assert not get_model("hist2st").cls.several_sections


@torch.no_grad()
def test_a_patch_of_112_pixels_keeps_every_point_of_its_maps():
    net = Hist2ST(replace(SMALL, dim=1024, side=16, channels=32), Shape(GENES)).eval()
    images = torch.randn(2, 3, 112, 112)
    maps = net.patch_embedding(images)
    assert maps.shape == (2, 32, 16, 16)
    torch.testing.assert_close(net.embed(images), net.down(net.mixers(maps)).flatten(1))
    assert net.embed(images).shape == (2, 1024)


@pytest.mark.parametrize("px", [1, 7, 20, 30])
def test_any_patch_size(px):
    for mode in (True, False):
        net = network().train(mode)
        mean = net(batch(px=px)).mean
        assert mean.shape == (12, GENES)
        assert torch.isfinite(mean).all()
    with torch.no_grad():
        assert mean.std(dim=0).min() > 0


@torch.no_grad()
def test_equals_its_layers_one_by_one():
    net, data = network().eval(), batch()
    pixels = data["patches"].double() / 255
    pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    maps = net.patch_embedding(pixels.float())
    for mixer in net.mixers:
        first, norm, _, second, other_norm, _ = mixer.within
        inner = F.gelu(other_norm(second(F.gelu(norm(first(maps))))))
        point, _, last_norm = mixer.across
        maps = last_norm(F.gelu(point(inner + maps)))
    values = net.down(maps).flatten(1) + net.position_embedding(data["positions"])
    for block in net.blocks:
        values = block(values)
    adjacent = (torch.cdist(data["positions"], data["positions"]) - 200).abs() < 1  # a lattice of pitch 200
    reached = torch.cdist(data["positions"], data["positions"]) <= 400.4
    layers = []
    for layer in net.graph:
        mean = torch.stack(
            [values[neighbors_of(i, data["positions"], adjacent, reached)].mean(dim=0) for i in range(12)]
        )
        values = F.relu(mean @ layer.lin.weight.T)
        values = values / values.norm(dim=1, keepdim=True)
        layers.append(values)
    hidden = net.lstm(torch.stack(layers))[0].mean(dim=0)
    torch.testing.assert_close(net(data).mean, net.head.mean(net.norm(hidden)), atol=1e-5, rtol=1e-4)


def neighbors_of(spot, positions, adjacent, reached):
    """Four nearest on the lattice; `spatial_neighbors` says which of equally far ones count."""
    from stpredict.models.nn._graph import spatial_neighbors

    index, valid = spatial_neighbors(positions, 4)
    chosen = index[spot][valid[spot]]
    assert set(adjacent[spot].nonzero().flatten().tolist()) <= set(chosen.tolist())
    assert reached[spot, chosen].all()
    assert spot not in chosen
    return chosen


@torch.no_grad()
def test_graph_convolution_reads_neighbors_and_an_isolated_spot_itself():
    torch.manual_seed(0)
    layer, values = _GraphSAGE(DIM), torch.randn(3, DIM)
    index, valid = torch.tensor([[1, 2], [0, 2], [0, 1]]), torch.tensor([[True, True], [True, False], [False, False]])
    expected = F.relu(layer.lin(torch.stack([values[1:].mean(dim=0), values[0], values[2]])))
    found = layer(values, index, valid)
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))
    assert not torch.equal(found[2], torch.zeros(DIM))


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
    assert (net(batch(positions=data["positions"].flip(0))).mean - plain).abs().max() > 1e-4
    torch.testing.assert_close(net(batch(positions=data["positions"] + 7000)).mean, plain, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_prediction_draws_nothing():
    net, data = network(dropout=0.5, symmetries=True, stain_jitter=0.2), batch()
    assert not torch.equal(net.train()(data).mean, net(data).mean)
    assert torch.equal(net.eval()(data).mean, net(data).mean)


@torch.no_grad()
def test_mixed_precision_changes_little():
    net = network().eval()
    plain = net(batch()).mean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(batch()).mean
    torch.testing.assert_close(mixed.float(), plain, atol=0.1, rtol=0.1)


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
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    with torch.no_grad():
        assert torch.isfinite(net.eval()(data).mean).all()


@pytest.mark.parametrize("changes", [{}, {"zinb": 0.25, "views": 2, "stain_jitter": 0.2}])
def test_every_parameter_learns(changes):
    net = network(**changes).train()
    net.loss(net(batch()), batch())["total"].backward()
    idle = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert idle <= {"view_weight.2.bias"}  # a weight common to all views


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"dim": 33}, "side=4, dim=33"), ({"side": 1}, "side=1, dim=32"), ({"kernel": 4}, "kernel=4")],
)
def test_sizes_that_do_not_fit_are_named(changes, found):
    with pytest.raises(ValueError, match=f"expected .*found {found}"):
        replace(SMALL, **changes)


def smooth_sections(n_patients=6, side=6, seed=0):
    """A section per patient; colors change smoothly over it, and genes follow them."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), side**2)
    place = np.tile(np.stack(np.divmod(np.arange(side**2), side), axis=1), (n_patients, 1)) * 200.0
    wave = rng.normal(0, 0.002, (n_patients, 2, 3))[patient]
    phase = rng.uniform(0, 6, (n_patients, 3))[patient]
    tone = 140 + 60 * np.sin(np.einsum("ni,nic->nc", place, wave) + phase)
    patches = np.clip(tone[:, None, None] + rng.normal(0, 6, (len(tone), PX, PX, 3)), 0, 255).astype(np.uint8)
    target = tone / 50 @ np.random.default_rng(9).normal(size=(3, GENES)) + rng.normal(0, 0.2, (len(tone), GENES))
    return ArraySet(
        patient, patient, {"positions": place.astype(np.float32), "patches": patches},
        target=target.astype(np.float32),
    )  # fmt: skip


def test_learns_what_holds_in_other_patients():
    torch.set_num_threads(1)
    data = smooth_sections()
    train = data.patient < 5
    # The last steps are small ones: where they are not, the error depends on which was the last.
    changes = {"max_epochs": 20, "patience": 0, "learning_rate": 5e-3, "schedule": "cosine"}
    config = train_config("hist2st", changes)
    fit = fit_arrays("hist2st", data.take(train), hyperparameters=SIZES | {"depth": 1}, config=config)
    mean = predict_arrays(fit.network, data.take(~train)).mean
    target = data.target[~train]
    error = ((mean - target) ** 2).mean()
    baseline = ((data.target[train].mean(axis=0) - target) ** 2).mean()
    assert error < 0.6 * baseline
