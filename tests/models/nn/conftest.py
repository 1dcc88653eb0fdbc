from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from stpredict.core._optional import import_torchvision


@pytest.fixture(scope="session")
def torchvision_network() -> Callable[[str], torch.nn.Module]:
    """Networks of torchvision by name, untrained, with statistics and scales that are not 0 and 1."""

    def build(name: str) -> torch.nn.Module:
        if find_spec("torchvision") is None:
            pytest.skip("needs torchvision")
        import_torchvision()
        torch.manual_seed(0)
        network = getattr(import_module("torchvision.models"), name)(weights=None)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.2, 0.2)
        return network.eval()

    return build
