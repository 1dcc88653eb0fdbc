"""Neighbors and hypergraphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
