"""Graph layers against those of torch_geometric, which takes long to import: all in one file."""

from __future__ import annotations

import pytest
import torch

from stpredict.models.nn._graph import HypergraphConv, hypergraph, spatial_neighbors
from stpredict.models.nn._graph_attention import GraphAttention

geometric = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed")


def test_hypergraph_convolution():
    torch.manual_seed(0)
    values, members = torch.randn(30, 5), hypergraph(torch.randn(30, 5), torch.rand(30, 2), 3)
    conv, theirs = HypergraphConv(5, 4), geometric.HypergraphConv(5, 4)
    theirs.load_state_dict(conv.state_dict())
    edge = torch.arange(30).repeat_interleave(members.shape[1])
    torch.testing.assert_close(
        conv(values, members), theirs(values, torch.stack([members.flatten(), edge])), atol=1e-6, rtol=1e-6
    )


def test_graph_attention():
    torch.manual_seed(0)
    positions = torch.rand(30, 2) * 1000
    positions[-1] = 90_000.0  # nobody near
    (index, valid), values = spatial_neighbors(positions, 4), torch.randn(30, 6).double()
    net = GraphAttention(6, 5, 3).double().eval()
    theirs = geometric.GATConv(6, 5, heads=3, negative_slope=net.slope, bias=False, add_self_loops=True).double()
    with torch.no_grad():
        theirs.lin.weight.copy_(net.lin.weight)
        theirs.att_dst.copy_(net.of_spot[None])
        theirs.att_src.copy_(net.of_neighbor[None])
        spot, which = valid.nonzero(as_tuple=True)
        edges = torch.stack([index[spot, which], spot])
        torch.testing.assert_close(net(values, index, valid), theirs(values, edges), atol=1e-6, rtol=1e-6)
