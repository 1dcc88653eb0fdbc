from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stpredict.models import Batch, Shape, Summary
from stpredict.models._hist import Hist, HistConfig
from stpredict.models.base._grid import GridPredictor, mirrored, place, shuffled
from stpredict.models.nn._unet_blocks import GridNorm
from stpredict.training.targets import ClassTarget


def cells(n_rows: int, n_cols: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(n_rows), torch.arange(n_cols))


def sections(*shapes: tuple[int, int], keep: float = 0.8, d: int = 6, n_genes: int = 5, seed: int = 0) -> Batch:
    """Sections with holes, with codes of their own, rows in any order."""
    generator = torch.Generator().manual_seed(seed)
    parts = [cells(*shape) for shape in shapes]
    code = torch.cat([torch.full((len(part),), 9 - 4 * i) for i, part in enumerate(parts)])
    cell = torch.cat(parts)
    last = torch.cat([(part == part[-1]).all(dim=1) for part in parts])
    kept = (torch.rand(len(cell), generator=generator) < keep) | last
    rows = torch.arange(len(cell))[kept][torch.randperm(int(kept.sum()), generator=generator)]
    code, cell = code[rows], cell[rows]
    return Batch(
        code,
        code,
        {"features": torch.randn(len(rows), d, generator=generator), "cell": cell},
        target=3 + torch.randn(len(rows), n_genes, generator=generator),
    )


def take(batch: Batch, rows: Tensor) -> Batch:
    inputs = {name: values[rows] for name, values in batch.inputs.items()}
    return replace(
        batch, section=batch.section[rows], patient=batch.patient[rows], inputs=inputs, target=batch.target[rows]
    )


def with_inputs(batch: Batch, **inputs: Tensor) -> Batch:
    return replace(batch, inputs=batch.inputs | inputs)


def build(n_genes: int = 5, d: int = 6, **changes) -> Hist:
    torch.manual_seed(0)
    options = {"width": 8, "levels": 3, "mixer_depth": 2, "augment": False} | changes
    network = Hist(HistConfig(**options), Shape(n_genes, {"features": d}))
    torch.nn.init.normal_(network.head.mean.weight)
    torch.nn.init.normal_(network.head.mean.bias)
    return network


def trained_a_little(network: Hist, batch: Batch) -> Hist:
    """Statistics of batch norms as they are after training: neither 0 nor 1."""
    network.train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(5):
            network(batch)
    return network.eval()


MIXED = [(20, 17), (33, 12), (9, 16), (5, 4)]


@pytest.mark.parametrize(
    ("shape", "multiple", "padded"), [((78, 64), 16, (80, 64)), ((5, 3), 4, (8, 4)), ((8, 8), 8, (8, 8))]
)
def test_padding_of_one_section(shape, multiple, padded) -> None:
    where = place(torch.zeros(shape[0] * shape[1], dtype=torch.long), cells(*shape), multiple)
    assert where.tissue.shape == (1, *padded)
    assert where.extent is None
    assert int(where.row.min()) == (padded[0] - shape[0]) // 2
    assert int(where.col.min()) == (padded[1] - shape[1]) // 2
    assert int(where.tissue.sum()) == shape[0] * shape[1]


def test_scatter_and_gather_are_inverse() -> None:
    batch = sections(*MIXED)
    where = place(batch.section, batch["cell"], 4)
    assert where.tissue.shape == (4, 36, 20)
    grid = where.scatter(batch["features"])
    assert grid.is_contiguous()  # on a CPU
    assert torch.equal(where.gather(grid), batch["features"])
    assert torch.equal((grid != 0).any(dim=1), where.tissue)
    extents = {int(code): (-(-h // 4) * 4, -(-w // 4) * 4) for code, (h, w) in zip((9, 5, 1, -3), MIXED, strict=True)}
    for i, code in enumerate(sorted(extents)):
        height, width = extents[code]
        assert where.extent[i, :height, :width].all()
        assert int(where.extent[i].sum()) == height * width
    row = int(((batch.section == 5) & (batch["cell"] == torch.tensor([32, 11])).all(dim=1)).nonzero())
    assert torch.equal(grid[2, :, 33, 11], batch["features"][row])  # 33 rows become 36: one before, two behind


def test_two_observations_in_one_cell() -> None:
    batch = sections((9, 9), (6, 7))
    batch["cell"][(batch.section == 5).nonzero()[:2, 0]] = torch.tensor([2, 3])
    taken = (batch.section == 5) & (batch["cell"] == torch.tensor([2, 3])).all(dim=1)
    with pytest.raises(ValueError, match=rf"one observation.*found {int(taken.sum())} in row 2, column 3.*pp\.grid"):
        build()(batch)


def test_cells_below_zero() -> None:
    batch = sections((9, 9))
    batch["cell"][0, 1] = -1
    with pytest.raises(ValueError, match="counted from 0"):
        build()(batch)


def test_grid_smaller_than_the_depth_allows() -> None:
    batch = sections((40, 40), (12, 9), keep=1)
    with pytest.raises(ValueError, match=r"at least 16 cells.*levels=5; found 12 x 9; pass levels=4 or less"):
        build(levels=5)(batch)
    assert build(levels=4)(batch).mean.shape == (len(batch), 5)


@pytest.mark.parametrize("gates", [True, False])
def test_prediction_of_a_section_does_not_depend_on_the_others(gates: bool) -> None:
    batch = sections(*MIXED)
    network = trained_a_little(build(gates=gates), batch)
    with torch.no_grad():
        together = network(batch).mean
        assert together.std() > 0.1
        for code in batch.section.unique():
            rows = batch.section == code
            torch.testing.assert_close(network(take(batch, rows)).mean, together[rows], rtol=1e-4, atol=1e-4)


def test_training_counts_no_cell_beyond_the_extents() -> None:
    """Normalizing by all sections at once, whatever their sizes, equals normalizing the cells of all of them."""
    torch.manual_seed(0)
    values, extent = torch.randn(2, 3, 8, 6), torch.zeros(2, 8, 6, dtype=torch.bool)
    extent[0], extent[1, :4, :2] = True, True
    norm, reference = GridNorm(3), torch.nn.BatchNorm1d(3)
    found = norm(values, extent)
    assert (found.permute(0, 2, 3, 1)[~extent] == 0).all()
    torch.testing.assert_close(
        found.permute(0, 2, 3, 1)[extent], reference(values.permute(0, 2, 3, 1)[extent]), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(norm.running_var, reference.running_var)


def test_one_cell_at_the_last_level_trains() -> None:
    network = build(levels=4, mixer_depth=1).train()
    batch = sections((8, 8))
    network.loss(network(batch), batch)["total"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("shuffle", [False, True])
def test_order_of_rows_does_not_matter(shuffle: bool) -> None:
    batch = sections(*MIXED)
    network = trained_a_little(build(shuffle=shuffle), batch)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(network(take(batch, order)).mean, network(batch).mean[order], rtol=1e-4, atol=1e-5)


def test_neighbors_count_and_distant_cells_do_not() -> None:
    batch = sections((40, 40), keep=1)
    network = trained_a_little(build(levels=2, mixer_depth=0), batch)
    changed = with_inputs(batch, features=batch["features"].clone())
    changed["features"][(batch["cell"] == 20).all(dim=1)] += 5
    with torch.no_grad():
        difference = (network(changed).mean - network(batch).mean).abs().sum(dim=1)
    distance = (batch["cell"] - 20).abs().amax(dim=1)
    assert difference[distance == 1].mean() > 1e-3
    assert difference[distance > 15].max() == 0


@pytest.mark.parametrize("shape", [(7, 5), (6, 6)])
def test_symmetries_in_training(shape) -> None:
    """The mean of the neighbors of every cell is the same before and after a symmetry."""
    batch = sections(shape, shape, keep=0.7)
    weight = torch.ones(6, 1, 3, 3)
    where = place(batch.section, batch["cell"], 1)
    before = where.gather(F.conv2d(where.scatter(batch["features"]), weight, padding=1, groups=6))
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        moved = mirrored(batch.section, batch["cell"], "square")
        seen.add(tuple(moved[batch.section == 9].flatten().tolist()))
        where = place(batch.section, moved, 1)
        assert sorted(where.tissue.shape[1:]) == sorted(shape)
        after = where.gather(F.conv2d(where.scatter(batch["features"]), weight, padding=1, groups=6))
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert len(seen) == 8


def neighbors_on_hexagons(cell: Tensor) -> set[tuple[int, int]]:
    """Pairs of rows whose cells touch; odd rows of the grid lie half a step to the right."""
    x, y = cell[:, 1] + (cell[:, 0] % 2) / 2, cell[:, 0] * 3**0.5 / 2
    near = torch.cdist(torch.stack([x, y], dim=1).double(), torch.stack([x, y], dim=1).double()) < 1.1
    return {(int(i), int(j)) for i, j in near.nonzero() if i < j}


def test_symmetries_of_hexagons() -> None:
    for shape in ((7, 5), (6, 8)):
        batch = sections(shape, keep=0.7)
        before, seen = neighbors_on_hexagons(batch["cell"]), set()
        for seed in range(40):
            torch.manual_seed(seed)
            moved = mirrored(batch.section, batch["cell"], "hex")
            seen.add(tuple(moved.flatten().tolist()))
            assert neighbors_on_hexagons(moved) == before
        assert len(seen) == 4


def test_augmentation_belongs_to_training() -> None:
    batch = sections((20, 17))
    network = trained_a_little(build(augment=True), batch)
    with torch.no_grad():
        torch.testing.assert_close(network(batch).mean, network(batch).mean, rtol=0, atol=0)
        network.train()
        assert any((network(batch).mean - network(batch).mean).abs().max() > 1e-3 for _ in range(5))


def test_shuffled_cells_stay_in_their_section() -> None:
    batch = sections((12, 9), (12, 9), (4, 4))
    found = shuffled(batch["features"], batch.section, batch["cell"])
    for code in batch.section.unique():
        rows = batch.section == code
        alone = take(batch, rows)
        assert torch.equal(found[rows], shuffled(alone["features"], alone.section, alone["cell"]))
        assert {tuple(cell) for cell in found[rows].tolist()} == {tuple(cell) for cell in alone["cell"].tolist()}
        assert (found[rows] == alone["cell"]).all(dim=1).float().mean() < 0.3
    # Sections of equal cells are exchanged differently: no network can learn to undo it.
    full = sections((12, 9), (12, 9), keep=1)
    full = take(full, torch.argsort(full.section * 1000 + full["cell"][:, 0] * 9 + full["cell"][:, 1]))
    moved = shuffled(full["features"], full.section, full["cell"])
    assert (moved[:108] == moved[108:]).all(dim=1).float().mean() < 0.1
    # And far: an exchange among neighbors alone would leave the neighborhood readable.
    assert (moved - full["cell"]).abs().float().mean() > 2


@pytest.mark.parametrize("standardize", [True, False])
def test_loss_over_all_cells_is_that_of_the_dense_maps(standardize: bool) -> None:
    batch = sections(*MIXED)
    network = build(loss_area="all", standardize=standardize).train()
    mean, std = torch.linspace(1, 3, 5), torch.linspace(0.5, 2, 5)
    network.prepare(Summary(10, mean, std, {"features": (torch.full((6,), 0.3), torch.full((6,), 1.5))}))
    found = network.loss(network(batch), batch)["total"]
    where = place(batch.section, batch["cell"], 4)
    features = (batch["features"] - 0.3) / 1.5 if standardize else batch["features"]
    tissue = where.tissue[:, None].float()
    dense = network.dense(where.scatter(features), tissue, where.extent)
    mean, std = (mean, std) if standardize else (torch.zeros(5), torch.ones(5))
    maps = dense * std[:, None, None] + mean[:, None, None]
    error = (maps - where.scatter(batch.target)) / std[:, None, None]
    expected = error.square().permute(0, 2, 3, 1)[where.extent].mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network(batch).mean, where.gather(maps), rtol=1e-4, atol=1e-4)


def test_classes() -> None:
    batch = sections(*MIXED)
    label = torch.arange(len(batch)) % 3 - 1
    batch = replace(batch, target=label, kind=ClassTarget("region", ("a", "b")))
    known = label >= 0
    network = build(1).train()
    prediction = network(batch)
    expected = F.binary_cross_entropy_with_logits(prediction.mean[known, 0], label[known].float())
    torch.testing.assert_close(network.loss(prediction, batch)["total"], expected)

    network = build(1, loss_area="all").train()
    where = place(batch.section, batch["cell"], 4)
    logits = network.dense(where.scatter(batch["features"]), where.tissue[:, None].float(), where.extent)[:, 0]
    counted = where.extent & ~where.tissue
    counted[where.section[known], where.row[known], where.col[known]] = True
    truth = where.scatter(label[:, None].float())[:, 0].clamp_min(0)
    expected = F.binary_cross_entropy_with_logits(logits[counted], truth[counted])
    torch.testing.assert_close(network.loss(network(batch), batch)["total"], expected, rtol=1e-4, atol=1e-5)

    network = build(3, loss_area="all").train()
    with pytest.raises(ValueError, match="two classes for loss_area='all'.*found 3"):
        network.loss(network(batch), batch)


def test_no_map_of_all_genes_is_held() -> None:
    """The largest tensor that is kept for the gradients does not grow with the number of genes times the cells."""
    batch = sections((24, 24), keep=0.1, n_genes=3000)
    sizes: list[int] = []
    for area in ("tissue", "all"):
        network = build(3000, loss_area=area).train()

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            network.loss(network(batch), batch)["total"].backward()
    assert max(sizes) <= len(batch) * 3000 < 24 * 24 * 3000 / 5


def test_a_network_without_layers_names_itself() -> None:
    class Idle(GridPredictor):
        pass

    batch = sections((8, 8))
    with pytest.raises(TypeError, match="Idle defines no hidden"):
        Idle(HistConfig(), Shape(5, {"features": 6}), 8)(with_inputs(batch, cell=batch["cell"] * 3))


def test_cells_of_numpy_are_enough() -> None:
    """Cells come from tables as 32-bit or 64-bit whole numbers."""
    batch = sections((9, 9))
    network = build().eval()
    narrow = with_inputs(batch, cell=torch.from_numpy(batch["cell"].numpy().astype(np.int32)))
    with torch.no_grad():
        assert torch.equal(network(narrow).mean, network(batch).mean)
