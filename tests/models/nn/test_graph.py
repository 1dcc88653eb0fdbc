"""Neighbors and hypergraphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.models.nn import _graph
from stpredict.models.nn._graph import HypergraphConv, hypergraph, mean_of_neighbors, nearest, spatial_neighbors


def hex_lattice(n_rows=6, n_cols=7, pitch=100.0):
    row, col = np.divmod(np.arange(n_rows * n_cols), n_cols)
    return torch.tensor(np.column_stack([(col + 0.5 * (row % 2)) * pitch, row * pitch * np.sqrt(3) / 2])).float()


def by_loop(distance, k):
    """Indices of the k smallest entries of each row, itself left out, spot by spot."""
    out = []
    for i in range(len(distance)):
        others = sorted((float(distance[i, j]), j) for j in range(len(distance)) if j != i)
        out.append([j for _, j in others[:k]])
    return torch.tensor(out)


@pytest.mark.parametrize("chunk", [3, 1000])
def test_nearest_are_the_nearest(chunk):
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    index, distance = nearest(points, 5, chunk=chunk)
    expected = by_loop(torch.cdist(points, points), 5)
    assert (index == expected).all()
    np.testing.assert_allclose(distance, torch.cdist(points, points).gather(1, expected), rtol=1e-5)
    assert (distance.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("chunk", [3, 1000])
def test_hypergraph_joins_a_spot_with_the_nearest_in_features_and_position(chunk):
    generator = torch.Generator().manual_seed(1)
    features, positions = torch.randn(40, 6, generator=generator), torch.rand(40, 2, generator=generator) * 1000
    members = hypergraph(features, positions, 3, chunk=chunk)
    total = torch.zeros(40, 40)
    for values in (features, positions):
        distance = torch.cdist(values, values)
        total += distance / (distance.sum() / (40 * 39))
    assert (members[:, 0] == torch.arange(40)).all()
    assert (members[:, 1:] == by_loop(total, 3)).all()
    # The farthest ones, which the opposite sign would choose, are others.
    assert not (members[:, 1:] == by_loop(-total, 3)).any()


def test_hypergraph_of_two_clusters_stays_within_them():
    positions = torch.cat([torch.rand(10, 2), torch.rand(10, 2) + 100])
    members = hypergraph(torch.zeros(20, 3), positions, 3)
    assert ((members < 10) == (torch.arange(20) < 10)[:, None]).all()


def test_hypergraph_weighs_features_against_positions():
    positions = torch.arange(10.0)[:, None].repeat(1, 2)
    features = torch.tensor([0.0, 9] * 5)[:, None] * 100  # even and odd spots look alike
    members = hypergraph(features, positions, 1)
    assert ((members[:, 1] - members[:, 0]) % 2 == 0).all()


@pytest.mark.parametrize("k", [2, 4])
def test_spatial_neighbors_do_not_depend_on_the_order_of_spots(k):
    positions = hex_lattice()
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(0))
    index, valid = spatial_neighbors(positions, k)
    moved, valid_moved = spatial_neighbors(positions[order], k)
    assert (order[moved].sort(dim=1).values == index[order].sort(dim=1).values).all()
    assert (valid_moved == valid[order]).all()


def test_spatial_neighbors_of_a_lattice_and_of_an_isolated_spot():
    row, col = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    positions = torch.cat([torch.stack([col.flatten(), row.flatten()], dim=1) * 200, torch.tensor([[9000.0, 9000.0]])])
    index, valid = spatial_neighbors(positions, 4)
    assert sorted(index[12].tolist()) == [7, 11, 13, 17]
    assert valid[:25].all()
    assert not valid[25].any()
    values = torch.randn(26, 3)
    mean = mean_of_neighbors(values, index, valid)
    np.testing.assert_allclose(mean[12], values[[7, 11, 13, 17]].mean(dim=0), rtol=1e-5)
    assert (mean[25] == 0).all()


def squares(n_rows, n_cols, pitch=200.0):
    return torch.cartesian_prod(torch.arange(float(n_cols)), torch.arange(float(n_rows))) * pitch


def shuffled(positions):
    return positions[torch.randperm(len(positions), generator=torch.Generator().manual_seed(3))]


FAR = torch.tensor([[9e5, 9e5], [-1e6, 3.0]])
ARRAYS = {
    "hexagons": hex_lattice(15, 16),
    "squares": squares(12, 14),
    "far from the origin": squares(12, 14) + 1e6,
    "hexagons with holes": shuffled(hex_lattice(15, 16))[:120],
    "mirrored about the direction": squares(9, 9) @ torch.tensor([[0.8310, -0.5563], [0.5563, 0.8310]]),
    "anywhere": torch.rand(300, 2, generator=torch.Generator().manual_seed(2)) * 1e4,
    "in a line": torch.arange(60.0)[:, None] * torch.tensor([5.0, 0.0]),
    "isolated": torch.cat([squares(6, 7), FAR]),
    "on a circle": torch.stack([torch.arange(40.0).cos(), torch.arange(40.0).sin()], dim=1) * 50,
    "two at each place": squares(6, 6).repeat_interleave(2, dim=0),
    "twenty at each place": squares(3, 4).repeat_interleave(20, dim=0),
    "all at one place": torch.zeros(30, 2),
    "unknown": torch.cat([squares(4, 4), torch.tensor([[torch.nan, 1.0]])]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 4, 6, 8, 18])
@pytest.mark.parametrize("name", ARRAYS)
def test_spatial_neighbors_are_those_of_all_distances(name, k, dtype):
    """Ties, order and reach as when the distances of all pairs are compared."""
    for positions in (ARRAYS[name].to(dtype), shuffled(ARRAYS[name].to(dtype))):
        x, y = positions.double().unbind(dim=1)
        right, down = x - x[:, None], y - y[:, None]
        distance = torch.hypot(right, down) + 1e-6 * 0.8310 * right + 1e-6 * 0.5563 * down
        distance.fill_diagonal_(torch.inf)
        smallest, expected = torch.topk(distance, min(k, len(x) - 1), largest=False)
        smallest = smallest.to(dtype)
        for reach in (0.5, np.sqrt(2), 2.0):
            index, valid = spatial_neighbors(positions, k, reach=reach)
            assert torch.equal(index, expected)
            assert torch.equal(valid, smallest <= reach * smallest[:, :1].median() * 1.001)


@pytest.mark.parametrize("k", [1, 4, 5, 7, 8, 13, 18, 19])
@pytest.mark.parametrize("name", ["hexagons", "squares", "far from the origin", "anywhere", "isolated"])
def test_few_distances_settle_an_array(name, k, monkeypatch):
    monkeypatch.setattr(_graph, "_smallest", None)  # that of all pairs
    index, _ = spatial_neighbors(ARRAYS[name] * 1.25, k)
    assert index.shape == (len(ARRAYS[name]), k)


def test_a_section_is_searched_once(monkeypatch):
    searched = []
    by_tree = _graph._by_tree
    monkeypatch.setattr(_graph, "_by_tree", lambda *given: searched.append(1) or by_tree(*given))
    positions = torch.rand(50, 2, generator=torch.Generator().manual_seed(11)) * 700
    with torch.inference_mode():
        first = spatial_neighbors(positions, 4)
    again = spatial_neighbors(positions.clone(), 4)
    assert len(searched) == 1
    assert torch.equal(first[0], again[0])
    values = torch.randn(50, 3, requires_grad=True)
    mean_of_neighbors(values, *again).sum().backward()  # found in inference, used in training
    again[0].zero_()  # what the caller does with its copy is nobody else's business
    assert torch.equal(spatial_neighbors(positions, 4)[0], first[0])
    positions[7] += 1
    spatial_neighbors(positions, 4)
    spatial_neighbors(positions, 5)
    spatial_neighbors(positions, 5, reach=1.5)
    assert len(searched) == 4


def test_hypergraph_computes_distances_once_where_they_can_be_held(monkeypatch):
    computed = []
    cdist = torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda *given, **how: computed.append(1) or cdist(*given, **how))
    features, positions = torch.randn(40, 6), torch.rand(40, 2)
    held = hypergraph(features, positions, 3, chunk=10)
    assert len(computed) == 4
    monkeypatch.setattr(_graph, "_KEPT", 40 * 40 - 1)
    assert torch.equal(hypergraph(features, positions, 3, chunk=10), held)
    assert len(computed) == 12


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_spots(n):
    positions, features = torch.rand(n, 2), torch.rand(n, 4)
    assert nearest(features, 5)[0].shape == (n, n - 1)
    index, valid = spatial_neighbors(positions, 4)
    assert index.shape == valid.shape == (n, n - 1)
    assert torch.isfinite(mean_of_neighbors(features, index, valid)).all()
    members = hypergraph(features, positions, 3)
    assert members.shape == (n, n)
    assert torch.isfinite(HypergraphConv(4, 2)(features, members)).all()


def incidence(members):
    """Dense (n_spots, n_edges) incidence."""
    h = torch.zeros(len(members), len(members), dtype=torch.float64)
    h[members.flatten(), torch.arange(len(members)).repeat_interleave(members.shape[1])] = 1
    return h


def test_convolution_equals_the_product_of_dense_matrices():
    torch.manual_seed(0)
    values, members = torch.randn(30, 5, dtype=torch.float64), hypergraph(torch.randn(30, 5), torch.rand(30, 2), 3)
    conv = HypergraphConv(5, 4).double()
    torch.nn.init.normal_(conv.bias)
    h = incidence(members)
    expected = torch.diag(1 / h.sum(1)) @ h @ torch.diag(1 / h.sum(0)) @ h.T @ conv.lin(values) + conv.bias
    torch.testing.assert_close(conv(values, members), expected, atol=1e-12, rtol=1e-12)
