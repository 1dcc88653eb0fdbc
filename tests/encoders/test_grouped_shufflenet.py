"""The small network of histology: against its published description, written out with tensors alone."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import stpredict as stp
from stpredict.encoders._grouped_shufflenet import GroupedShuffleNet

NAME = "shufflenet_g2_lc25000"


def published(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Features (n, 800) by the description of the weights: no module, no name of a layer but those of the file."""

    def norm(x: Tensor, key: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{key}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = norm(F.conv2d(images, state["conv1.weight"]), "bn1").relu()
    for stage, n_blocks in enumerate((4, 8, 4), start=1):
        for number in range(n_blocks):
            key = f"layer{stage}.{number}"
            stride = 2 if number == 0 else 1
            groups = 1 if x.shape[1] == 24 else 2
            y = norm(F.conv2d(x, state[f"{key}.conv1.weight"], groups=groups), f"{key}.bn1").relu()
            n, c, h, w = y.shape
            y = y.reshape(n, groups, c // groups, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
            y = norm(F.conv2d(y, state[f"{key}.conv2.weight"], None, stride, 1, 1, c), f"{key}.bn2").relu()
            y = norm(F.conv2d(y, state[f"{key}.conv3.weight"], groups=2), f"{key}.bn3")
            x = (y + x if stride == 1 else torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1)).relu()
    return x.mean((2, 3))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights in the layout of the file: without counters, with the classifier, and statistics that matter."""
    torch.manual_seed(0)
    network = GroupedShuffleNet()
    found = {k: v.clone() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    for key, value in found.items():
        if key.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 2)
    found["bn1.running_var"] *= 1e4  # values of 0 to 255 come in
    return found | {"linear.weight": torch.randn(5, 800), "linear.bias": torch.randn(5)}


def test_layout_of_the_file(state) -> None:
    assert sum(v.numel() for k, v in state.items() if "running" not in k) == 883_577
    shapes = {
        "layer1.0.conv1": (44, 24, 1, 1), "layer1.0.conv3": (176, 22, 1, 1), "layer1.1.conv1": (50, 100, 1, 1),
        "layer2.0.conv2": (50, 1, 3, 3),
    }  # fmt: skip
    assert {key: tuple(state[f"{key}.weight"].shape) for key in shapes} == shapes


@pytest.mark.parametrize("side", [32, 45])
def test_the_network_is_the_published_one(state, side) -> None:
    network = GroupedShuffleNet().eval()
    network.load_state_dict(state, strict=False)
    images = torch.rand(3, 3, side, side) * 255
    with torch.inference_mode():
        torch.testing.assert_close(network(images), published(state, images), rtol=1e-4, atol=1e-4)


def test_by_name_with_values_of_0_to_255(state, tmp_path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    encoder = stp.encoders.get_encoder(NAME, weights=tmp_path / "w.safetensors", device="cpu")
    assert (encoder.dim, encoder.tile_px, encoder.tile_um) == (800, 32, 112.0)
    tiles = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(encoder(tiles), published(state, tiles.float()), rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        assert not torch.allclose(encoder(tiles), published(state, tiles / 255), rtol=0.1)


def test_other_files_are_refused(state, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"expected the weights .* found none.*{NAME}.safetensors"):
        stp.encoders.get_encoder(NAME)
    path = tmp_path / "w.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith("layer3.3.conv2")}, path)
    with pytest.raises(ValueError, match=r"missing layer3\.3\.conv2\.weight; these weights belong to another network"):
        stp.encoders.get_encoder(NAME, weights=path)
