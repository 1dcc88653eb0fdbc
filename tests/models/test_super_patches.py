"""Super-patches of a map: which cells are joined, what the graph says, and an outcome that follows from regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import stpredict as stp
from stpredict.models import Batch
from stpredict.models.nn._graphs import GATConv, Graphs
from stpredict.models.nn._super_patches import merge_cells, neighboring_cells


def test_cells_that_touch_on_a_square_lattice() -> None:
    tissue = np.ones((3, 3), dtype=bool)
    tissue[1, 1] = False
    place = np.argwhere(tissue)
    apart = np.abs(place[:, None] - place[None]).max(axis=2)
    wanted = {(a, b) for a, b in np.argwhere(apart == 1).tolist() if a < b}
    found = [tuple(sorted(pair)) for pair in neighboring_cells(tissue, "square").tolist()]
    assert len(found) == len(set(found)) == len(wanted)
    assert set(found) == wanted


def test_cells_that_touch_on_a_hexagonal_lattice() -> None:
    tissue = np.random.default_rng(0).uniform(size=(6, 5)) < 0.8
    row, column = np.nonzero(tissue)
    x, y = column + 0.5 * (row % 2), row * np.sqrt(3) / 2
    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    wanted = {(a, b) for a, b in np.argwhere((apart > 0) & (apart < 1.01)).tolist() if a < b}
    found = [tuple(sorted(pair)) for pair in neighboring_cells(tissue, "hex").tolist()]
    assert len(found) == len(set(found)) == len(wanted)
    assert set(found) == wanted


def test_no_super_patch_crosses_a_border_and_all_are_connected() -> None:
    rng = np.random.default_rng(0)
    side = 12
    left = (np.arange(side * side) % side < 5).astype(np.float32)
    values = np.stack([10 * left, rng.normal(0, 0.1, side * side)], axis=1).astype(np.float32)
    pairs = neighboring_cells(np.ones((side, side), dtype=bool), "square")
    found = merge_cells(values, pairs, within=0.75, rounds=3)
    assert found.size.sum() == side * side
    assert 1 < found.size.max() <= 8
    assert len(found.size) < side * side / 2
    np.testing.assert_array_equal(np.bincount(found.label), found.size)
    for number in range(len(found.size)):
        cells = np.flatnonzero(found.label == number)
        assert len(np.unique(left[cells])) == 1
        reached, own = {cells[0]}, set(cells)
        for _ in cells:
            reached |= {b for a, b in [*pairs.tolist(), *pairs[:, ::-1].tolist()] if a in reached and b in own}
        assert reached == own
    ends = {tuple(pair) for pair in found.links.tolist()}
    assert ends == {(b, a) for a, b in ends}
    assert ends == {(a, b) for a, b in found.label[np.concatenate([pairs, pairs[:, ::-1]])].tolist() if a != b}


@pytest.mark.parametrize(("options", "n"), [({"within": 1e-9, "rounds": 4}, 9), ({"within": 1.0, "rounds": 0}, 9)])
def test_unlike_cells_and_no_rounds_leave_the_cells(options: dict[str, Any], n: int) -> None:
    values = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    found = merge_cells(values, neighboring_cells(np.ones((3, 3), dtype=bool), "square"), **options)
    assert (found.label.tolist(), found.size.tolist()) == (list(range(n)), [1] * n)


def test_values_are_means_over_cells_and_the_order_of_slides_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    network = stp.models.build(
        "super_patches", 1, {"tokens": 2}, hyperparameters={"shape": (4, 5), "merge_within": 1.5}, seed=0
    )
    network.eval()
    tokens = torch.from_numpy(rng.normal(size=(3, 20, 2)).astype(np.float32))
    size = torch.from_numpy((rng.uniform(size=(3, 20)) < 0.7).astype(np.float32))
    zeros = torch.zeros(3, dtype=torch.int64)
    batch = Batch(zeros, zeros, {"tokens": tokens, "token_size": size})
    values, weight, graphs = network.graphs(batch)
    assert graphs.size.tolist() == [int((graphs.graph == i).sum()) for i in range(3)]
    torch.testing.assert_close(
        torch.stack([(values[:, :2] * weight)[graphs.graph == i].sum(dim=0) for i in range(3)]),
        (tokens * size[..., None]).sum(dim=1),
    )
    assert (graphs.graph[graphs.links[:, 0]] == graphs.graph[graphs.links[:, 1]]).all()
    with torch.no_grad():
        together = network(batch).mean
        order = torch.tensor([2, 0, 1])
        moved = network(Batch(zeros, zeros, {"tokens": tokens[order], "token_size": size[order]})).mean
    torch.testing.assert_close(moved, together[order])


def test_attention_is_that_of_torch_geometric() -> None:
    geometric = pytest.importorskip("torch_geometric.nn")
    torch.manual_seed(0)
    links = torch.tensor([[0, 1], [1, 0], [1, 2], [2, 1]])
    values, graphs = torch.randn(4, 3), Graphs(links, torch.zeros(4, dtype=torch.int64), torch.tensor([4]))
    own, other = GATConv(3, 4, 2), geometric.GATConv(3, 4, heads=2)
    other.lin.weight.data = own.lin.weight.data
    other.att_dst.data, other.att_src.data = own.of_node.data[None], own.of_neighbor.data[None]
    torch.testing.assert_close(own(values, graphs), other(values, links.T))


def slides(n: int = 32, seed: int = 0) -> tuple[AnnData, dict[str, np.ndarray]]:
    """Patients half of whom have a region, elsewhere on every slide, in which a channel is high."""
    rng = np.random.default_rng(seed)
    response = np.arange(n) % 2 == 0
    obs = pd.DataFrame(
        {"patient": [f"p{i}" for i in range(n)], "response": response}, index=[f"s{i}" for i in range(n)]
    )
    maps = {}
    for name, yes in zip(obs.index, response, strict=True):
        cells = rng.normal(0, 0.3, (2, 10, 10))
        row, column = rng.integers(0, 6, 2)
        if yes:  # the mean over the slide is the same
            cells[0, row : row + 4, column : column + 4] += 3
        else:
            cells[0] += rng.permutation(np.repeat([3.0, 0.0], [16, 84])).reshape(10, 10)
        maps[name] = cells.astype(np.float32)
    return AnnData(obs=obs), maps


def test_an_outcome_that_follows_from_regions_is_learned(tmp_path) -> None:
    data, maps = slides()
    result = stp.tl.fit_outcome(
        data,
        "response",
        maps=maps,
        n_folds=(2, 2),
        hyperparameters="super_patches",
        training={"max_epochs": 20, "patience": 0},
    )
    scores = result.scores.set_index("model")["auroc"]
    print(scores.to_dict())
    assert scores.index[0] == "super_patches"
    assert scores["super_patches"] > 0.9
    assert scores["super_patches"] > scores["mean map"] + 0.1
    result.save(tmp_path / "outcome")
    others, other_maps = slides(10, seed=1)
    stp.tl.predict_outcome(others, tmp_path / "outcome", maps=other_maps)
    found = others.obs.groupby("response")["response_probability"].mean()
    assert found[True] > found[False] + 0.3
    assert others.uns["stpredict"]["response_probability"]["model"] == "super_patches"


def test_survival_and_presets_and_unknown_networks() -> None:
    data, maps = slides(16)
    rng = np.random.default_rng(0)
    data.obs["time"], data.obs["event"] = rng.exponential(10, 16), True
    for hyperparameters in ({"network": "super_patches", "n_hidden": 4}, "super_patches:paper"):
        result = stp.tl.fit_outcome(data, stp.targets.FollowUp(), maps=maps, n_folds=(2, 2), hyperparameters=hyperparameters,
                                    training={"max_epochs": 2}, baselines=False)  # fmt: skip
        assert np.isfinite(data.obs["risk"]).all()
        assert result.model.model == "super_patches"
    with pytest.raises(ValueError, match=r"hyperparameters\['network'\]"):
        stp.tl.fit_outcome(data, "response", maps=maps, hyperparameters={"network": "ridge"})


def test_memory_of_super_patches_is_linear_in_the_cells(memory_grown_by) -> None:
    """A map of 5,000 cells: all pairs of cells would be 100 MB for their differences alone, and 3.2 GB for their channels."""
    side, width = 71, 32
    values = np.random.default_rng(0).normal(size=(side * side, width)).astype(np.float32)
    pairs = neighboring_cells(np.ones((side, side), dtype=bool), "square")
    merge_cells(values[:100], pairs[:50], within=1.0, rounds=1)
    grown = memory_grown_by(lambda: merge_cells(values, pairs, within=2.0, rounds=4))
    print(f"{grown / 1e6:.1f} MB")
    assert grown < 60e6
