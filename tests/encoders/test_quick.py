"""Convolutional networks that are run in another form: what they find, and who is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import stpredict as stp
from stpredict.core._optional import import_torchvision
from stpredict.encoders._grouped_shufflenet import GroupedShuffleNet
from stpredict.encoders._quick import Quick


def trained(network: nn.Module) -> nn.Module:
    """Batch norms that do something."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.2)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("name", ["shufflenet", "resnet18", "mobilenet_v2", "timm"])
def test_features_are_those_of_the_network(name: str) -> None:
    if name == "shufflenet":
        network: Any = GroupedShuffleNet()
    elif name == "timm":
        network = import_torchvision("timm").create_model("resnet10t", num_classes=0)
    else:
        network = import_torchvision("torchvision.models").get_model(name, weights=None)
    quick, tiles = Quick(trained(network), 32), torch.randn(37, 3, 32, 32)
    assert quick.changed
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in each.modules()) for each in (network, quick.network)]
    assert norms[0] > norms[1] == 0
    with torch.inference_mode():
        wanted = network(tiles)
        torch.testing.assert_close(quick(tiles), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_few_tiles_at_a_time_and_features_of_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    network = trained(GroupedShuffleNet())
    encoder = stp.encoders.get_encoder(network, tile_px=32, name="mine", device="cpu")
    tiles = torch.randint(0, 255, (70, 3, 32, 32), dtype=torch.uint8)
    sizes: list[int] = []
    called = encoder._called.network
    monkeypatch.setattr(encoder._called, "network", lambda some: (sizes.append(len(some)), called(some))[1])
    found = encoder(tiles)
    assert (sum(sizes), max(sizes)) == (70, min(70, 16 * torch.get_num_threads()))
    one = torch.cat([encoder(tile[None]) for tile in tiles[:5]])
    torch.testing.assert_close(found[:5], one, rtol=1e-3, atol=1e-4)
    assert encoder.network is network


class Looks(nn.Module):
    """A layer of somebody else, who counts."""

    seen = 0

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        self.seen += len(tiles)
        return tiles


class Branching(nn.Sequential):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return super().forward(tiles if tiles.sum() > 0 else -tiles)


Branching.__module__ = "stpredict.tests"


@pytest.mark.parametrize("kind", ["of others", "its path depends", "no norm"])
def test_other_networks_are_called_as_they_come(kind: str) -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if kind == "of others":
        network: nn.Module = nn.Sequential(looks := Looks(), *layers)
    elif kind == "its path depends":
        network = Branching(*layers)
    else:
        network = nn.Sequential(layers[0], *layers[2:])
    quick = Quick(network.eval(), 16)
    assert not quick.changed
    assert quick.network is network
    assert quick(torch.randn(5, 3, 16, 16)).shape == (5, 4)
    assert kind != "of others" or looks.seen == 5
