from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor
from torch.nn import functional as F

from stpredict.metrics import pearson
from stpredict.models import Shape
from stpredict.models._hist import Hist, HistConfig
from stpredict.models.nn._unet_blocks import Gate, MixerLayer, Upsample
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config
from stpredict.training.targets import ClassTarget

SMALL = {"width": 8, "levels": 3, "mixer_depth": 1}
QUICK = {"max_epochs": 32, "patience": 0, "learning_rate": 1e-2, "batch_size": 3}
RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])


def neighborhoods(n_sections: int = 12, side: int = 12, seed: int = 0) -> ArraySet:
    """Sections with holes; a gene follows the mean of the features around a cell, and a little the cell's own."""
    rng = np.random.default_rng(seed)
    parts = []
    shape = (side, side)
    for i in range(n_sections):
        tissue = rng.uniform(size=shape) < 0.85
        tissue[-1, -1] = True
        grid = rng.normal(size=(*shape, 4)) * tissue[..., None]
        count = np.maximum(convolve(tissue.astype(float), RING, mode="constant"), 1)
        around = np.stack([convolve(grid[..., k], RING, mode="constant") for k in range(4)], axis=-1) / count[..., None]
        signal = 2.5 * around[..., :3] + 0.35 * grid[..., 1:]
        target = 2 + signal + 0.1 * rng.normal(size=signal.shape)
        parts.append((np.full(int(tissue.sum()), i), np.argwhere(tissue), grid[tissue], target[tissue]))
    section, cell, features, target = (np.concatenate(values) for values in zip(*parts, strict=True))
    return ArraySet(
        section=section,
        patient=section,
        inputs={"features": features.astype(np.float32), "cell": cell},
        target=target.astype(np.float32),
    )


def held_out_score(model: str, data: ArraySet, **hyperparameters) -> float:
    test = data.section >= 9
    config = train_config(model, QUICK if model == "hist" else {})
    fit = fit_arrays(model, data.take(~test), hyperparameters=hyperparameters, config=config)
    held_out = data.take(test)
    mean = predict_arrays(fit.network, held_out, batch_size=1).mean
    scores = [pearson(held_out.target[rows], mean[rows]) for rows in (held_out.section == c for c in (9, 10, 11))]
    return float(np.mean(scores))


@pytest.fixture(scope="module")
def scores() -> dict[str, float]:
    torch.set_num_threads(1)
    data = neighborhoods()
    return {
        "ridge": held_out_score("ridge", data),
        "hist": held_out_score("hist", data, **SMALL),
        "shuffled": held_out_score("hist", data, **SMALL, shuffle=True),
        "plain": held_out_score("hist", data, **SMALL, gates=False),
    }


def test_neighborhood_is_learned(scores) -> None:
    assert scores["hist"] > scores["ridge"] + 0.25
    assert scores["plain"] > scores["ridge"] + 0.25


def test_without_its_neighbors_the_network_falls_back(scores) -> None:
    assert scores["shuffled"] < scores["ridge"] + 0.05
    assert scores["shuffled"] > scores["ridge"] - 0.25


@pytest.mark.parametrize("n_genes", [1, 346])
def test_parameter_count_of_the_paper(n_genes: int) -> None:
    with torch.device("meta"):
        network = Hist(HistConfig(), Shape(n_genes, {"features": 768}))
    assert sum(p.numel() for p in network.parameters()) == 50_372_928 + 65 * n_genes


def test_gates_are_what_differs_from_the_plain_network() -> None:
    with torch.device("meta"):
        shape = Shape(1, {"features": 768})
        gated, plain = Hist(HistConfig(), shape), Hist(HistConfig(gates=False), shape)
    assert not any(name.startswith("gates") for name, _ in plain.named_parameters())
    assert {n for n, _ in gated.named_parameters() if not n.startswith("gates")} == {
        n for n, _ in plain.named_parameters()
    }


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("mixer_depth", [0, 2])
def test_any_depth_keeps_the_size_of_the_grid(levels: int, mixer_depth: int) -> None:
    network = Hist(HistConfig(width=4, levels=levels, mixer_depth=mixer_depth), Shape(3, {"features": 7}))
    features = torch.randn(2, 7, 48, 32)
    assert network.hidden(features, torch.ones(2, 1, 48, 32)).shape == (2, 4, 48, 32)
    assert network.dense(features, torch.ones(2, 1, 48, 32)).shape == (2, 3, 48, 32)


def test_resolutions() -> None:
    network = Hist(HistConfig(width=4), Shape(3, {"features": 7}))
    seen: list[tuple[int, ...]] = []
    for module in [*network.encoder, network.bottleneck[-1]]:
        module.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    network.hidden(torch.randn(1, 7, 80, 64), torch.ones(1, 1, 80, 64))
    assert seen == [(4, 80, 64), (8, 40, 32), (16, 20, 16), (32, 10, 8), (64, 5, 4), (64, 5, 4)]


def conv(module: torch.nn.Conv2d, values: Tensor, **SMALL) -> Tensor:
    return F.conv2d(values, module.weight, module.bias, **SMALL)


def norm(module: torch.nn.BatchNorm2d, values: Tensor) -> Tensor:
    def across(vector: Tensor) -> Tensor:
        return vector[None, :, None, None]

    scaled = (values - across(module.running_mean)) / (across(module.running_var) + 1e-5).sqrt()
    return scaled * across(module.weight) + across(module.bias)


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1 if tensor.ndim == 1 else 0.2 * torch.randn_like(tensor))
    return module.eval()


def test_gate_equals_its_formula() -> None:
    gate, x = randomized(Gate(6)), torch.randn(2, 6, 9, 8)
    a = norm(gate.point_norm, conv(gate.point, x))
    b = norm(gate.ordinary_norm, conv(gate.ordinary, x, padding=1))
    d = norm(gate.dilated_norm, conv(gate.dilated, x, padding=2, dilation=2))
    g = torch.sigmoid(norm(gate.vote_norm, conv(gate.vote, F.relu(torch.cat([a, b, d], dim=1)))))
    torch.testing.assert_close(gate(x), x + x * g, rtol=1e-5, atol=1e-5)


def test_mixer_and_upsampling_equal_their_formulas() -> None:
    mixer, x = randomized(MixerLayer(6)), torch.randn(2, 6, 9, 8)
    y = x + norm(mixer.depthwise_norm, F.gelu(conv(mixer.depthwise, x, padding=3, groups=6)))
    expected = norm(mixer.point_norm, F.gelu(conv(mixer.point, y)))
    torch.testing.assert_close(mixer(x), expected, rtol=1e-5, atol=1e-5)
    up = randomized(Upsample(6, 3))
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(up(x), F.relu(norm(up.norm, conv(up.conv, doubled, padding=1))), rtol=1e-5, atol=1e-5)


def test_labels_of_regions() -> None:
    """Cells whose surroundings are high: seen by the network, hardly by a cell alone."""
    data = neighborhoods()
    label = (data.target[:, 0] > np.median(data.target[:, 0])).astype(np.int64)
    label[::17] = -1
    data.target, data.kind = label, ClassTarget("region", ("low", "high"))
    config = train_config("hist", QUICK)
    test = data.section >= 9
    fit = fit_arrays("hist", data.take(~test), hyperparameters=SMALL, config=config)
    logits = predict_arrays(fit.network, data.take(test), batch_size=1).mean
    truth = label[test]
    right = ((logits[:, 0] > 0) == truth)[truth >= 0]
    assert right.mean() > 0.8


def test_start_from_another_panel() -> None:
    torch.manual_seed(0)
    first, second = (Hist(HistConfig(**SMALL), Shape(n, {"features": 4})) for n in (3, 7))
    second.start_from(first)
    assert torch.equal(second.encoder[0].conv1.weight, first.encoder[0].conv1.weight)
    assert second.head.mean.weight.shape == (7, 8)


def test_impossible_hyperparameters() -> None:
    shape = Shape(3, {"features": 4})
    for changes in ({"width": 0}, {"levels": 0}, {"mixer_depth": -1}):
        with pytest.raises(ValueError, match="expected width and levels of at least 1"):
            Hist(HistConfig(**changes), shape)
    with pytest.raises(ValueError, match="lattice"):
        Hist(HistConfig(lattice="triangle"), shape)
    with pytest.raises(ValueError, match="loss_area"):
        Hist(HistConfig(loss_area="cells"), shape)
