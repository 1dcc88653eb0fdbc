"""HGGEP: sizes, symmetries of its input, and what it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stpredict.metrics import pearson
from stpredict.models import Batch, Shape, get_model
from stpredict.models._hggep import HGGEP, HGGEPConfig
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

SMALL = HGGEPConfig(
    dim=64, heads=2, depth=1, mlp_dim=64, hypergraph_hidden=32, lstm_layers=2, patch_px=24, views=0, stain_jitter=0.05
)
GENES = 4


def network(**changes):
    torch.manual_seed(0)
    net = HGGEP(replace(SMALL, **changes), Shape(GENES))
    torch.nn.init.normal_(net.head.mean.weight, std=0.1)  # it starts at the mean, which shows nothing
    return net


def section(n=20, px=24, seed=0, **changes):
    rng = np.random.default_rng(seed)
    none = torch.zeros(n, dtype=torch.long)
    row, col = np.divmod(np.arange(n), 5)
    positions = np.column_stack([col, row]) * 200 + rng.uniform(-9, 9, (n, 2))
    inputs = {
        "patches": torch.tensor(rng.integers(0, 256, (n, 3, px, px)), dtype=torch.uint8),
        "positions": torch.tensor(positions).float(),
    }
    target = torch.tensor(rng.normal(size=(n, GENES))).float()
    inputs["counts"] = torch.tensor(rng.poisson(2, (n, GENES))).float()
    inputs["size_factor"] = torch.tensor(rng.uniform(0.5, 2, n)).float()
    return Batch(none, none, inputs | changes, target=target)


def rows(batch, index):
    inputs = {name: values[index] for name, values in batch.inputs.items()}
    return Batch(batch.section[index], batch.patient[index], inputs, target=batch.target[index])


@torch.no_grad()
def predict(net, batch):
    return net.eval()(batch).mean


def test_published_sizes():
    config = HGGEPConfig()
    assert (config.dim, config.heads, config.depth, config.mlp_dim, config.dropout) == (1024, 8, 4, 1024, 0.2)
    assert (config.neighbors, config.hypergraph_hidden, config.lstm_layers, config.theta) == (3, 512, 4, 0.7)
    assert (config.zinb, config.views, config.distill, config.patch_px) == (0.25, 5, 0.5, 112)
    with torch.device("meta"):
        net = HGGEP(config, Shape(785))
    shapes = [tuple(stage.project.weight.shape) for stage in net.levels]
    assert shapes == [(16, 96, 1, 1), (64, 192, 1, 1), (64, 1024, 1, 1)]
    assert [stage.side**2 * stage.project.out_channels for stage in net.levels] == [1024] * 3
    # Of a block: norm, queries with keys and values, output, norm, two layers.
    block = 2 * 1024 + 3 * 1024**2 + (1024**2 + 1024) + 2 * 1024 + 2 * (1024**2 + 1024)
    assert sum(p.numel() for p in net.attention.parameters()) == 3 * 4 * block
    assert sum(p.numel() for p in net.lstm.parameters()) == 4 * (8 * 1024**2 + 8 * 1024)
    hypergraph = (1024 * 512 + 512) + 2 * 512 + (512 * 1024 + 1024)
    assert sum(p.numel() for p in net.hypergraph.parameters()) == hypergraph
    assert tuple(net.head.mean.weight.shape) == (785, 1024)
    defaults = train_config("hggep")
    assert (defaults.optimizer, defaults.learning_rate, defaults.max_epochs) == ("adam", 1e-5, 400)


def test_stages_of_the_code():
    with torch.device("meta"):
        net = HGGEP(HGGEPConfig(stages="code"), Shape(3))
    shapes = [tuple(stage.project.weight.shape) for stage in net.levels]
    assert shapes == [(64, 192, 1, 1), (64, 1024, 1, 1), (1024, 1024, 1, 1)]
    assert predict(network(stages="code"), section()).shape == (20, GENES)


def test_maps_of_112_pixels_are_read_as_they_are(monkeypatch):
    """At the published size nothing is averaged: the stages come out with the sides that are read."""
    sides = []
    net = network().eval()
    for stage in net.levels:
        stage.gate.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    with torch.no_grad():
        net.embed(torch.zeros(1, 3, 112, 112))
    assert sides == [stage.side for stage in net.levels] == [8, 4, 4]


@pytest.mark.parametrize("px", [8, 31, 56])
def test_any_patch_size(px):
    net, batch = network(patch_px=px), section(6, px=px)
    assert torch.isfinite(predict(net, batch)).all()
    parts = net.train().loss(net(batch), batch)
    parts["total"].backward()
    assert torch.isfinite(parts["total"])


def test_permuted_spots_give_permuted_predictions():
    net, batch = network(), section()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    found, plain = predict(net, rows(batch, order)), predict(net, batch)
    torch.testing.assert_close(found, plain[order], rtol=1e-4, atol=1e-5)
    assert plain.std(dim=0).min() > 1e-3


def test_chunks_change_no_prediction():
    batch = section()
    whole, parts = (predict(network(chunk=chunk), batch) for chunk in (256, 7))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_dropout_is_off_at_prediction():
    net, batch = network(dropout=0.5), section()
    assert torch.equal(predict(net, batch), predict(net, batch))
    with torch.no_grad():
        net.train()
        assert not torch.equal(net(batch).mean, net(batch).mean)


def test_alone_and_apart():
    net, batch = network(), section()
    one = rows(batch, torch.arange(1))
    assert torch.isfinite(predict(net, one)).all()
    batch["positions"][0] += 1e5  # nowhere near the others
    assert torch.isfinite(predict(net, batch)).all()
    batch["positions"][10:] += 1e6
    assert torch.isfinite(predict(net, batch)).all()
    batch["positions"][:] = 0
    assert torch.isfinite(predict(net, batch)).all()
    parts = net.train().loss(net(one), one)
    parts["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_the_place_of_the_section_on_the_slide_has_no_influence():
    net, batch = network(), section()
    plain = predict(net, batch)
    batch.inputs["positions"] += 4096.0
    torch.testing.assert_close(predict(net, batch), plain, rtol=1e-3, atol=1e-3)
    batch.inputs["positions"] *= 2
    assert (predict(net, batch) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("stages", ["paper", "code"])
def test_every_parameter_learns(stages):
    net, batch = network(views=2, stages=stages).train(), section()
    net.loss(net(batch), batch)["total"].backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert set(idle) <= {"view_weight.2.bias"}  # a weight common to all views, whose gradient is rounding


def test_hyperedges_join_the_nearest_and_not_the_farthest(monkeypatch):
    """The spots that a forward pass joins, against distances summed pair by pair."""
    net, batch = network(neighbors=4), section()
    seen = {}
    choose = net.hyperedges

    def watched(hidden, positions):
        seen["hidden"], seen["members"] = hidden.double(), choose(hidden, positions)
        return seen["members"]

    monkeypatch.setattr(net, "hyperedges", watched)
    predict(net, batch)
    total = np.zeros((20, 20))
    for values in (seen["hidden"].numpy(), batch["positions"].double().numpy()):
        distance = np.array([[np.linalg.norm(a - b) for b in values] for a in values])
        total += distance / distance[~np.eye(20, dtype=bool)].mean()
    np.fill_diagonal(total, np.inf)
    members = seen["members"].numpy()
    assert (members[:, 0] == np.arange(20)).all()
    nearest = np.sort(np.argsort(total, axis=1)[:, :4], axis=1)
    assert (np.sort(members[:, 1:], axis=1) == nearest).all()
    np.fill_diagonal(total, -np.inf)
    farthest = np.sort(np.argsort(-total, axis=1)[:, :4], axis=1)
    assert (np.sort(members[:, 1:], axis=1) != farthest).any(axis=1).all()


def test_only_spots_in_reach_of_hyperedges_change_what_the_hypergraph_gives():
    net = network().eval()
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(20, 2, generator=generator) * 300
    positions[10:] += 50_000
    hidden = torch.randn(20, 64, generator=generator)

    @torch.no_grad()
    def mixed(values):
        return net.hypergraph(values, net.hyperedges(values, positions))

    plain = mixed(hidden)
    far = hidden.clone()
    far[10:] += 0.1 * torch.randn(10, 64, generator=generator)
    assert torch.equal(net.hyperedges(far, positions)[:10], net.hyperedges(hidden, positions)[:10])
    torch.testing.assert_close(mixed(far)[:10], plain[:10])
    near = hidden.clone()
    neighbor = int(net.hyperedges(hidden, positions)[0, 1])
    near[neighbor] += 0.01
    assert (mixed(near)[0] - plain[0]).abs().max() > 1e-5


def test_relate_is_attention_then_hypergraph_then_lstm():
    net = network().eval()
    positions = section()["positions"]
    embedded = torch.randn(20, 3 * 64)
    with torch.no_grad():
        place = net.place(positions)
        first, second, third = (
            attention(embedded[:, i * 64 : (i + 1) * 64] + place) for i, attention in enumerate(net.attention)
        )
        total = first + second + third
        last = total + net.hypergraph(total, net.hyperedges(total, positions))
        steps = net.lstm(torch.stack([first, second, third, last]).transpose(0, 1))[0]
        torch.testing.assert_close(net.relate(embedded, positions), sum(steps[:, i] for i in range(4)) / 4)


@pytest.mark.parametrize("changes", [{"dim": 100}, {"dim": 64, "heads": 3}])
def test_widths_that_do_not_fit(changes):
    with pytest.raises(ValueError, match=r"multiple of 64 and of heads; found dim=\d+"):
        replace(SMALL, **changes)


def test_unknown_stages():
    with pytest.raises(ValueError, match="paper, code; found 'both'"):
        replace(SMALL, stages="both")


def test_weights_of_the_backbone_are_read(tmp_path):
    other = network().backbone
    torch.nn.init.normal_(other.conv5[0].weight)
    torch.save(other.state_dict(), tmp_path / "w.pth")
    net = network(weights=str(tmp_path / "w.pth"))
    net.load_initial_weights()
    torch.testing.assert_close(net.backbone.conv5[0].weight, other.conv5[0].weight)


def test_registered():
    info = get_model("hggep")
    assert (info.cls.draws, info.cls.several_sections) == ("sections", False)
    assert info.reads({}) == {"patches", "positions", "counts", "size_factor"}
    assert info.reads({"zinb": 0}) == {"patches", "positions"}


def colored_sections(n_sections=4, n=25, px=16, seed=0):
    """Patients of one section each; genes follow the color of the patch, which changes across the section."""
    rng = np.random.default_rng(seed)
    n_all = n_sections * n
    row, col = np.divmod(np.arange(n_all) % n, 5)
    angle = np.repeat(rng.uniform(0, 2 * np.pi, n_sections), n)
    level = np.sin(col * np.cos(angle) + row * np.sin(angle)) + rng.normal(0, 0.2, n_all)
    tone = np.column_stack([150 + 45 * level, 120 - 30 * level, np.full(n_all, 160)])
    patches = tone[:, None, None, :] + rng.normal(0, 5, (n_all, px, px, 3))
    mean = 400 * np.exp(0.8 * level[:, None] * np.array([1, -1, 0.5, -0.5]))
    counts = rng.poisson(mean)
    return ArraySet(
        section=np.arange(n_all) // n,
        patient=np.arange(n_all) // n,
        inputs={
            "positions": (np.column_stack([col, row]) * 200).astype(np.float32),
            "patches": np.clip(patches, 0, 255).astype(np.uint8),
            "counts": counts.astype(np.float32),
            "size_factor": np.ones(n_all, dtype=np.float32),
        },
        target=np.log1p(counts).astype(np.float32),
    )


def test_learns_across_patients():
    torch.set_num_threads(1)
    data = colored_sections()
    test = data.section == 3
    options = {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__} | {"patch_px": 16, "lstm_layers": 1}
    # The last steps are small ones: where they are not, the error depends on which was the last.
    changes = {"max_epochs": 20, "patience": 0, "learning_rate": 5e-3, "schedule": "cosine"}
    config = train_config("hggep").updated(changes)
    fit = fit_arrays("hggep", data.take(~test), hyperparameters=options, config=config)
    held_out = data.take(test)
    mean = predict_arrays(fit.network, held_out).mean
    assert np.mean(pearson(held_out.target, mean)) > 0.6
    train_mean = data.target[~test].mean(axis=0)
    assert ((mean - held_out.target) ** 2).mean() < 0.8 * ((train_mean - held_out.target) ** 2).mean()
    loss = fit.history["train_zinb"].to_numpy()
    assert loss[-1] < loss[0]
