from __future__ import annotations

import torch

from stpredict.models.nn._super_pixels import SuperPixelNet


def test_parameters_and_keys_as_published() -> None:
    with torch.device("meta"):
        network = SuperPixelNet(579, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == 602_856
    wanted = {f"net_lat.{i}.linear.{name}" for i in range(4) for name in ("weight", "bias")}
    assert set(network.state_dict()) == wanted | {"net_out.linear.weight", "net_out.linear.bias"}


def test_outputs_are_never_below_zero() -> None:
    torch.manual_seed(0)
    network = SuperPixelNet(5, 7, hidden=16)
    assert network(torch.randn(3, 200, 5) * 100).min() >= 0
    assert network(torch.zeros(2, 5)).shape == (2, 7)
