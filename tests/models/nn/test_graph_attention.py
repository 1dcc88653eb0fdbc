"""Attention over lists of neighbors."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stpredict.models.nn._graph import spatial_neighbors
from stpredict.models.nn._graph_attention import GraphAttention


def layer(n_inputs=6, n_outputs=5, heads=3, **options):
    torch.manual_seed(0)
    return GraphAttention(n_inputs, n_outputs, heads, **options).double().eval()


def graph(n=30, k=4):
    generator = torch.Generator().manual_seed(1)
    positions = torch.rand(n, 2, generator=generator) * 1000
    positions[-1] = 90_000.0  # nobody near
    index, valid = spatial_neighbors(positions, k)
    return torch.randn(n, 6, generator=generator).double(), index, valid


def dense(net, values, index, valid):
    """The same from the scores of all pairs, head by head."""
    n = len(values)
    linked = torch.eye(n, dtype=torch.bool)
    for i in range(n):
        linked[i, index[i][valid[i]]] = True
    outputs = []
    weights = net.lin.weight.unflatten(0, (net.heads, -1))
    for weight, of_spot, of_neighbor in zip(weights, net.of_spot, net.of_neighbor, strict=True):
        projected = values @ weight.T
        pairs = (projected @ of_spot)[:, None] + (projected @ of_neighbor)[None, :]
        scores = torch.where(pairs > 0, pairs, net.slope * pairs).masked_fill(~linked, -torch.inf)
        outputs.append(scores.softmax(dim=1) @ projected)
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("slope", [0.01, 0.2])
def test_equals_dense_masked_attention_and_its_gradient(slope):
    net = layer(slope=slope)
    values, index, valid = graph()
    assert not valid.all()
    target = torch.randn(30, 15, generator=torch.Generator().manual_seed(2)).double()
    results = []
    for compute in (net, lambda *args: dense(net, *args)):
        values.grad = None
        leaf = values.clone().requires_grad_()
        net.zero_grad()
        output = compute(leaf, index, valid)
        (output * target).sum().backward()
        results.append([output.detach(), leaf.grad, *(p.grad.clone() for p in net.parameters())])
    for ours, expected in zip(*results, strict=True):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


def test_isolated_spot_attends_to_itself():
    net = layer()
    values, index, valid = graph()
    assert not valid[-1].any()
    with torch.no_grad():
        output = net(values, index, valid)
        torch.testing.assert_close(output[-1], net.lin(values[-1]))
        assert (output[0] - net.lin(values[0])).abs().max() > 1e-3
        changed = values.clone()
        changed[index[-1]] += 5  # what lies out of reach
        torch.testing.assert_close(net(changed, index, valid)[-1], output[-1])
        alone = spatial_neighbors(torch.zeros(1, 2), 4)
        torch.testing.assert_close(net(values[:1], *alone), net.lin(values[:1]))


def test_order_of_spots_and_of_neighbors_does_not_matter():
    net = layer()
    values, index, valid = graph()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    inverse = order.argsort()
    with torch.no_grad():
        output = net(values, index, valid)
        torch.testing.assert_close(net(values[order], inverse[index[order]], valid[order]), output[order])
        torch.testing.assert_close(net(values, index.flip(1), valid.flip(1)), output)


def test_dropout_of_weights_in_training_only():
    net = layer(dropout=0.5)
    args = graph()
    with torch.no_grad():
        assert torch.equal(net(*args), net(*args))
        net.train()
        assert not torch.equal(net(*args), net(*args))


def test_constant_values_stay_constant():
    net = layer()
    _, index, valid = graph()
    values = torch.ones(30, 6).double()
    torch.testing.assert_close(net(values, index, valid), net.lin(values))


def test_memory_grows_with_the_number_of_spots(memory_grown_by):
    n = 20_000
    net = GraphAttention(16, 16, 8)
    args = torch.randn(n, 16), torch.randint(n, (n, 4)), torch.ones(n, 4, dtype=torch.bool)
    assert memory_grown_by(lambda: net(*args).sum().backward()) < 0.4e9  # all pairs of spots take 1.6 GB per head


def test_weights_start_like_separate_heads():
    net = GraphAttention(200, 100, 8)
    expected = 2**0.5 * (2 / (200 + 100)) ** 0.5
    assert abs(float(net.lin.weight.detach().std()) / expected - 1) < 0.02
    assert net.lin.weight.shape == (800, 200)
    assert F.leaky_relu(torch.tensor(-1.0), net.slope) == pytest.approx(-0.01)
