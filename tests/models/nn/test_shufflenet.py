"""The backbone against torchvision's."""

from __future__ import annotations

import pytest
import torch

from stpredict.models.nn._shufflenet import ShuffleNet


@pytest.fixture(scope="module")
def reference(torchvision_network):
    return torchvision_network("shufflenet_v2_x0_5")


def stages_of(reference, images):
    """What torchvision's stages give without the max pooling before them."""
    third = reference.stage3(reference.stage2(reference.conv1(images)))
    fourth = reference.stage4(third)
    return third, fourth, reference.conv5(fourth)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("px", [58, 37])
def test_torchvision_weights_give_torchvision_maps(reference, tmp_path, suffix, px):
    path = tmp_path / f"shufflenet.{suffix}"
    if suffix == "pth":
        torch.save(reference.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in reference.state_dict().items()}, path)
    network = ShuffleNet().eval()
    images = torch.rand(2, 3, px, px, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert not torch.allclose(network(images)[0], stages_of(reference, images)[0], atol=1e-2)
        network.load_imagenet(path)
        for found, wanted in zip(network(images), stages_of(reference, images), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_names_and_shapes_are_torchvisions_key_by_key(reference):
    wanted = {k: v.shape for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    assert {k: v.shape for k, v in ShuffleNet().state_dict().items()} == wanted


def test_training_gives_torchvision_gradients(reference):
    network = ShuffleNet()
    network.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")})
    images = torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    network.train()(images)[2].square().mean().backward()
    wanted = dict(reference.train().named_parameters())
    stages_of(reference, images)[2].square().mean().backward()
    reference.eval()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-3, atol=1e-5)


def test_published_sizes():
    with torch.device("meta"):
        maps = ShuffleNet().eval()(torch.empty(1, 3, 58, 58))
    assert [tuple(values.shape[1:]) for values in maps] == [(96, 8, 8), (192, 4, 4), (1024, 4, 4)]


def test_other_networks_are_refused(tmp_path):
    network = ShuffleNet()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    torch.save({"conv1.0.weight": torch.zeros(24, 3, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="shufflenet_v2_x0_5.*missing"):
        network.load_imagenet(tmp_path / "w.pth")
    torch.save({k: v[:1] if k == "conv5.0.weight" else v for k, v in before.items()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="1 of another shape.*conv5"):
        network.load_imagenet(tmp_path / "w.pth")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
