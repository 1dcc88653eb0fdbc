from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from stpredict.core._optional import import_torchvision, optional_import
from stpredict.models import Shape
from stpredict.models._stnet import STNet, STNetConfig
from stpredict.models.nn._densenet import DenseNet121


@pytest.fixture(scope="module")
def reference(torchvision_network) -> torch.nn.Module:
    return torchvision_network("densenet121")


def features_of(reference: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.relu(reference.features(images)).mean(dim=(2, 3))


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of the file that torchvision distributes: `norm.1`, `conv.2` within dense layers."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): v for key, v in state.items()}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvision_weights_give_torchvision_features(reference, tmp_path: Path, old: bool, suffix: str) -> None:
    state = old_names(reference.state_dict()) if old else reference.state_dict()
    assert any(".norm.1." in key for key in state) == old
    path = tmp_path / f"densenet121.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in state.items()}, path)
    network = DenseNet121().eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert not torch.allclose(network(images), features_of(reference, images), atol=1e-2)
        network.load_imagenet(path)
        torch.testing.assert_close(network(images), features_of(reference, images), rtol=1e-5, atol=1e-6)


def test_pooled_without_the_relu_as_by_the_children_of_torchvisions_network(reference) -> None:
    """What `Sequential(*children[:-1])` gives, and a mean over its maps."""
    network, rectified = DenseNet121(rectified=False).eval(), DenseNet121().eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for each in (network, rectified):
        each.features.load_state_dict(reference.features.state_dict())
    with torch.no_grad():
        expected = torch.nn.Sequential(*list(reference.children())[:-1])(images).mean(dim=(2, 3))
        torch.testing.assert_close(network(images), expected, rtol=1e-5, atol=1e-6)
        assert (expected < 0).any()
        assert (rectified(images) >= 0).all()


def test_stnet_starts_from_the_file(reference, tmp_path: Path) -> None:
    torch.save(old_names(reference.state_dict()), tmp_path / "w.pth")
    network = STNet(STNetConfig(weights=str(tmp_path / "w.pth")), Shape(3))
    network.load_initial_weights()
    torch.testing.assert_close(network.body.features.conv0.weight, reference.features.conv0.weight)


def test_other_networks_and_damaged_files_are_refused(tmp_path: Path) -> None:
    network = DenseNet121()
    before = network.features.conv0.weight.clone()
    path = tmp_path / "w.pth"
    torch.save({"features.conv0.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(ValueError, match="densenet121.*missing"):
        network.load_imagenet(path)
    state = network.state_dict()
    torch.save({k: v[:1] if k.endswith("conv0.weight") else v for k, v in state.items()}, path)
    with pytest.raises(ValueError, match="1 of another shape"):
        network.load_imagenet(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        network.load_imagenet(path)
    with pytest.raises(FileNotFoundError, match="expected a weight file"):
        network.load_imagenet(tmp_path / "none.pth")
    torch.testing.assert_close(network.features.conv0.weight, before)


def test_pickled_objects_are_not_read(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        DenseNet121().load_imagenet(tmp_path / "w.pth")
    assert not marker.exists()


def test_import_torchvision_twice_is_the_same_module(reference) -> None:
    assert import_torchvision() is import_torchvision()
    assert import_torchvision("timm").__name__ == "timm"


def test_missing_package_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r"stpredict-histology\[wsi\]"):
        optional_import("no_such_package_anywhere", "wsi")
