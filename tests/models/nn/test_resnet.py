from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stpredict.models.nn._resnet import ResNet18Trunk, ResNet50


@pytest.fixture(scope="module")
def reference(torchvision_network) -> torch.nn.Module:
    return torchvision_network("resnet50")


@pytest.mark.parametrize(("suffix", "px"), [("pth", 64), ("safetensors", 75)])
def test_torchvision_weights_give_torchvision_features(reference, tmp_path: Path, suffix: str, px: int) -> None:
    path = tmp_path / f"resnet50.{suffix}"
    if suffix == "pth":
        torch.save(reference.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in reference.state_dict().items()}, path)
    images = torch.rand(2, 3, px, px, generator=torch.Generator().manual_seed(1))
    network = ResNet50().eval()
    body = torch.nn.Sequential(*list(reference.children())[:-1])
    with torch.no_grad():
        wanted = body(images).flatten(1)
        assert not torch.allclose(network(images), wanted, atol=1e-2)
        network.load_imagenet(path)
        assert network(images).shape == (2, network.n_outputs)
        torch.testing.assert_close(network(images), wanted, rtol=1e-5, atol=1e-5)


def test_names_and_shapes_are_torchvisions(reference) -> None:
    theirs = {k: v.shape for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    with torch.device("meta"):
        assert {k: v.shape for k, v in ResNet50().state_dict().items()} == theirs


def test_other_networks_and_damaged_files_are_refused(tmp_path: Path) -> None:
    network = ResNet50()
    before = network.conv1.weight.clone()
    path = tmp_path / "w.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(ValueError, match="resnet50.*missing"):
        network.load_imagenet(path)
    state = network.state_dict()
    torch.save({k: v[:1] if k == "conv1.weight" else v for k, v in state.items()}, path)
    with pytest.raises(ValueError, match="1 of another shape"):
        network.load_imagenet(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        network.load_imagenet(path)
    torch.testing.assert_close(network.conv1.weight, before)


def test_the_trunk_of_resnet18_gives_torchvision_maps(torchvision_network, tmp_path: Path) -> None:
    reference = torchvision_network("resnet18")
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    images = torch.rand(2, 3, 70, 64, generator=torch.Generator().manual_seed(1))
    trunk = ResNet18Trunk().eval()
    trunk.load_imagenet(tmp_path / "resnet18.pth")
    with torch.no_grad():
        wanted = torch.nn.Sequential(*list(reference.children())[:-2])(images)
        torch.testing.assert_close(trunk(images), wanted, rtol=1e-5, atol=1e-5)
    assert wanted.shape == (2, trunk.n_outputs, 3, 2)
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="resnet18.*missing"):
        trunk.load_imagenet(tmp_path / "other.pth")
