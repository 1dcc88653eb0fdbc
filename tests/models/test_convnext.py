"""ConvNeXt V2 on maps: published sizes, tissue only, both losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stpredict.models import Batch, Shape, Summary
from stpredict.models._convnext import ConvNeXt, ConvNeXtConfig, ConvNeXtV2, turned
from stpredict.models.nn._cox import cox_loss
from stpredict.training.targets import ClassTarget, FollowUpTarget

RISK = Shape(1, {"tokens": 3, "features": 2})


def n_parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_sizes_of_the_published_networks() -> None:
    survival = ConvNeXtV2(346, 1, n_clinical=6, depths=(2, 2, 2, 2), dims=(3, 4, 5, 6), head_dims=(16, 8))
    assert (n_parameters(survival), len(survival.state_dict())) == (20_985, 104)
    assert [tuple(survival.head[i].weight.shape) for i in range(3)] == [(16, 12), (8, 16), (1, 8)]
    response = ConvNeXtV2(448, 2, depths=(2, 2, 8, 2), dims=(16, 24, 32, 40))
    assert n_parameters(response) == 256_354


def test_names_and_shapes_of_the_published_tensors() -> None:
    state = ConvNeXtV2(10, 1, dims=(3, 4, 5, 6)).state_dict()
    shapes = {
        "downsample_layers.0.0.weight": (3, 10, 4, 4),
        "downsample_layers.0.1.weight": (3,),
        "downsample_layers.2.0.weight": (4,),
        "downsample_layers.2.1.weight": (5, 4, 2, 2),
        "stages.1.0.dwconv.weight": (4, 1, 7, 7),
        "stages.1.1.norm.bias": (4,),
        "stages.1.1.pwconv1.weight": (16, 4),
        "stages.1.1.grn.gamma": (1, 1, 1, 16),
        "stages.1.1.pwconv2.weight": (4, 16),
        "norm.weight": (6,),
        "head.weight": (1, 6),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def drawn(n_channels: int = 5, **kwargs) -> ConvNeXtV2:
    torch.manual_seed(0)
    network = ConvNeXtV2(n_channels, 1, dims=(4, 6, 8, 8), depths=(1, 1, 2, 1), **kwargs).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tissue = (torch.rand(3, 1, 24, 20, generator=generator) > 0.3).float()
    return torch.randn(3, 5, 24, 20, generator=generator), tissue


def test_what_is_off_the_tissue_leaves_no_trace(maps) -> None:
    values, tissue = maps
    network = drawn()
    wanted = network(values, tissue)
    torch.testing.assert_close(network(torch.where(tissue > 0, values, 1e4), tissue), wanted)
    wide = [torch.nn.functional.pad(v, (0, 27, 0, 13)) for v in maps]
    torch.testing.assert_close(network(*wide), wanted, rtol=1e-4, atol=1e-5)
    shifted = [torch.nn.functional.pad(v, (32, 0, 32, 0)) for v in maps]
    torch.testing.assert_close(network(*shifted), wanted, rtol=1e-4, atol=1e-5)
    assert (network(values, 1 - tissue) - wanted).abs().min() > 1e-4


def test_tiles_count_by_their_share_of_tissue(maps) -> None:
    values, tissue = maps
    torch.manual_seed(0)
    network = ConvNeXtV2(5, 1, depths=(1,), dims=(4,), drop_path=0.0).eval()
    tissue[:, :, :, 5:] = 0
    tissue[:, :, ::3] = 0
    share = torch.nn.functional.avg_pool2d(tissue, 4)
    inside = (share > 0).float()
    x = network.stages[0][0](network.downsample_layers[0](values * tissue) * inside, inside)
    mean = (x * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3))
    torch.testing.assert_close(network.pool(values, tissue), network.norm(mean))
    assert len(share.unique()) > 3


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 33), (80, 64)])
def test_any_size_of_grid(shape) -> None:
    network = drawn()
    found = network(torch.randn(2, 5, *shape), torch.ones(2, 1, *shape))
    assert found.shape == (2, 1)
    assert torch.isfinite(found).all()


def test_slide_without_tissue_has_finite_gradients() -> None:
    network = drawn()
    network(torch.zeros(2, 5, 8, 8), torch.zeros(2, 1, 8, 8)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_response_normalization_follows_its_formula(maps) -> None:
    grn = drawn().stages[0][0].grn
    x = torch.randn(2, 6, 7, 16)
    norm = x.square().sum(dim=(1, 2), keepdim=True).sqrt()
    wanted = grn.gamma * (x * norm / (norm.mean(-1, keepdim=True) + 1e-6)) + grn.beta + x
    torch.testing.assert_close(grn(x, torch.ones(2, 6, 7, 1)), wanted)


def test_dropped_paths_keep_the_mean_and_stop_in_evaluation() -> None:
    network = drawn(drop_path=0.5)
    rates = [block.drop_path for stage in network.stages for block in stage]
    assert rates == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    block = network.stages[3][0]
    x, tissue = torch.randn(1, 8, 4, 4).expand(4000, -1, -1, -1), torch.ones(4000, 1, 4, 4)
    wanted = block(x[:1], tissue[:1])
    block.train()
    torch.manual_seed(0)
    found = block(x, tissue)
    same = (found == x).flatten(1).all(dim=1).float().mean()
    assert float(same) == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(found.mean(dim=0, keepdim=True), wanted, rtol=0.1, atol=0.1)


def bags(n: int = 12, d: int = 3, shape: tuple[int, int] = (8, 6), n_clinical: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    codes = torch.zeros(n, dtype=torch.int64)
    inputs = {
        "features": torch.randn(n, n_clinical, generator=generator),
        "tokens": 5 + 3 * torch.randn(n, shape[0] * shape[1], d, generator=generator),
        "token_size": (torch.rand(n, shape[0] * shape[1], generator=generator) > 0.2).float(),
    }
    time, event = torch.rand(n, generator=generator) + 0.1, (torch.arange(n) % 3 > 0).float()
    target = torch.stack([time, event], dim=1)
    return Batch(codes, torch.arange(n), inputs, target=target, kind=FollowUpTarget("time", "event"))


@pytest.mark.parametrize("mask", [False, True])
def test_predictor_arranges_cells_by_rows_and_columns(mask) -> None:
    batch = bags()
    network = ConvNeXt(ConvNeXtConfig(shape=(8, 6), mask=mask, n_clinical=2), RISK).eval()
    center, scale = torch.tensor([5.0, 4.0, 6.0]), torch.tensor([3.0, 2.0, 1.0])
    network.prepare(Summary(12, torch.zeros(1), torch.ones(1), {"tokens": (center, scale)}))
    tissue = batch["token_size"].reshape(12, 1, 8, 6)
    maps = torch.stack([((batch["tokens"] - center) / scale)[:, :, k].reshape(12, 8, 6) for k in range(3)], dim=1)
    maps = torch.cat([maps, tissue], dim=1) if mask else maps
    torch.testing.assert_close(network(batch).mean, network.network(maps, tissue, batch["features"]))


def test_only_the_mask() -> None:
    batch = bags(d=0, n_clinical=0)
    network = ConvNeXt(ConvNeXtConfig(shape=(8, 6), mask=True), Shape(1, {"tokens": 0}))
    assert network(batch).mean.shape == (12, 1)


def test_losses() -> None:
    batch = bags()
    network = ConvNeXt(ConvNeXtConfig(shape=(8, 6), n_clinical=2, class_weights=(0.5, 2.0)), RISK).eval()
    prediction = network(batch)
    wanted = cox_loss(prediction.mean[:, 0], batch.target[:, 0], batch.target[:, 1])
    torch.testing.assert_close(network.loss(prediction, batch)["total"], wanted)
    label = (torch.arange(12) % 4 == 0).long()
    batch = replace(batch, target=label, kind=ClassTarget("response", ("no", "yes")))
    logits = torch.cat([torch.zeros(12, 1), prediction.mean], dim=1)
    wanted = torch.nn.functional.cross_entropy(logits, label, weight=torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(network.loss(prediction, batch)["total"], wanted)


@pytest.mark.parametrize("class_weights", [(), (0.5, 2.0)])
def test_slides_of_unknown_class_count_for_nothing(class_weights) -> None:
    batch = bags()
    network = ConvNeXt(ConvNeXtConfig(shape=(8, 6), n_clinical=2, class_weights=class_weights), RISK).eval()
    label = (torch.arange(12) % 4 == 0).long()
    known = torch.arange(12) % 3 > 0
    kind = ClassTarget("response", ("no", "yes"))
    prediction = network(batch)
    inputs = {name: values[known] for name, values in batch.inputs.items()}
    alone = Batch(batch.section[known], batch.patient[known], inputs, target=label[known], kind=kind)
    batch = replace(batch, target=label.where(known, -1), kind=kind)
    torch.testing.assert_close(
        network.loss(prediction, batch)["total"], network.loss(network(alone), alone)["total"], rtol=1e-5, atol=1e-6
    )


def test_depths_must_fit_dims() -> None:
    with pytest.raises(ValueError, match="as many depths as dims"):
        ConvNeXtV2(3, depths=(1, 2), dims=(3,))


def neighbors(maps: torch.Tensor, lattice: str) -> set[frozenset[int]]:
    """Pairs of values of a map (h, w), 0 being empty, that lie beside each other."""
    cells = {(r, c): int(v) for r, row in enumerate(maps.tolist()) for c, v in enumerate(row) if v}
    pairs = set()
    for (r, c), value in cells.items():
        below = (c, c + (1 if r % 2 else -1)) if lattice == "hex" else (c,)
        around = [(r, c + 1), *((r + 1, col) for col in below)]
        pairs |= {frozenset((value, cells[cell])) for cell in around if cell in cells}
    return pairs


@pytest.mark.parametrize("lattice", ["square", "hex"])
@pytest.mark.parametrize("n_rows", [4, 5])
def test_turned_maps_keep_their_neighbors(lattice, n_rows) -> None:
    values = torch.arange(1.0, n_rows * 3 + 1).reshape(n_rows, 3)
    wanted = neighbors(values, lattice)
    maps = values.expand(6, 2, -1, -1)
    torch.manual_seed(0)
    seen = set()
    for _ in range(12):
        found = turned(maps, lattice)
        assert torch.equal(found[:, 0], found[:, 1])
        for one in found[:, 0]:
            assert neighbors(one, lattice) == wanted
            seen.add(tuple(one.flatten().tolist()) + tuple(one.shape))
        assert len({tuple(one.flatten().tolist()) for one in found[:, 0]}) > 1
    assert len(seen) == (8 if lattice == "square" else 4)


def test_maps_are_turned_in_training_only() -> None:
    batch = bags()
    network = ConvNeXt(ConvNeXtConfig(shape=(8, 6), n_clinical=2, drop_path=0.0), RISK).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    wanted = network(batch).mean
    torch.testing.assert_close(network(batch).mean, wanted, rtol=0, atol=0)
    torch.manual_seed(0)
    assert (network.train()(batch).mean - wanted).abs().max() > 1e-3
    fixed = ConvNeXt(ConvNeXtConfig(shape=(8, 6), n_clinical=2, drop_path=0.0, augment=False), RISK)
    fixed.load_state_dict(network.state_dict())
    torch.testing.assert_close(fixed.train()(batch).mean, wanted)
