from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import stpredict as stp
from stpredict.encoders._conch import image_tower
from stpredict.encoders._ctranspath import to_timm as ctranspath_to_timm
from stpredict.encoders._phikon_v2 import to_timm as phikon_to_timm
from stpredict.encoders._registry import registered
from stpredict.encoders._torchvision import headless


@pytest.fixture(scope="module")
def small():
    """State dictionary of a small torchvision network with its classifier, and the network's name."""
    from stpredict.core._optional import import_torchvision

    torch.manual_seed(0)
    return import_torchvision("torchvision.models").get_model("mobilenet_v2", weights=None).eval()


def test_torchvision_weights_from_file(small, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({key: value.clone() for key, value in small.state_dict().items()}, path)
    encoder = stp.encoders.get_encoder("torchvision:mobilenet_v2", weights=path, device="cpu", tile_px=64)
    assert (encoder.name, encoder.dim) == ("mobilenet_v2", 1280)
    tiles = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    normalized = (tiles / 255 - torch.tensor(encoder.mean)[:, None, None]) / torch.tensor(encoder.std)[:, None, None]
    with torch.inference_mode():
        expected = small.features(normalized).mean(dim=(2, 3))
    torch.testing.assert_close(encoder(tiles), expected, atol=1e-5, rtol=1e-4)


def test_half_precision_torch_file_without_classifier(small, tmp_path):
    path = tmp_path / "w.pth"
    state = {f"module.{k}": v.half() if v.is_floating_point() else v for k, v in small.state_dict().items()}
    torch.save({"state_dict": {k: v for k, v in state.items() if "classifier" not in k}}, path)
    encoder = stp.encoders.get_encoder("mobilenet_v2", weights=path, device="cpu")
    assert {p.dtype for p in encoder.network.parameters()} == {torch.float32}


def test_timm_weights_from_file(tmp_path):
    from stpredict.core._optional import import_torchvision

    timm = import_torchvision("timm")
    network = timm.create_model("resnet10t", pretrained=False, num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "w.bin")
    encoder = stp.encoders.get_encoder("timm:resnet10t", weights=tmp_path / "w.bin", device="cpu", tile_px=32)
    assert encoder.name == "resnet10t"
    tiles = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    normalized = (tiles / 255 - torch.tensor(encoder.mean)[:, None, None]) / torch.tensor(encoder.std)[:, None, None]
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(normalized), pre_logits=True)
    torch.testing.assert_close(encoder(tiles), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_truncated_files(small, tmp_path, share, suffix):
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(small.state_dict(), path)
    else:
        save_file(small.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="expected a complete weight file"):
        stp.encoders.get_encoder("mobilenet_v2", weights=path)


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"network": torch.nn.Linear(2, 2)}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        stp.encoders.get_encoder("mobilenet_v2", weights=path)


def test_weights_that_do_not_fit(small, tmp_path):
    state = small.state_dict()
    path = tmp_path / "w.pth"

    def attempt(changed, match):
        torch.save(changed, path)
        with pytest.raises(ValueError, match=match):
            stp.encoders.get_encoder("mobilenet_v2", weights=path)

    first = "features.0.0.weight"
    attempt({k: v for k, v in state.items() if k != first}, f"missing {first}")
    attempt(state | {"extra.weight": torch.zeros(1)}, "not part of it extra.weight")
    attempt(state | {first: torch.zeros(8, 3, 3, 3)}, r"\(32, 3, 3, 3\) \(found \(8, 3, 3, 3\)\)")
    attempt(state | {first: torch.full_like(state[first], float("nan"))}, "finite weights")
    with pytest.raises(FileNotFoundError, match="weight file"):
        stp.encoders.get_encoder("mobilenet_v2", weights=tmp_path / "absent.pth")


def test_phikon_keys_fill_the_network():
    with torch.device("meta"):
        network = registered("phikon-v2").build()
    d, state = 1024, {}
    for number in range(24):
        at = f"encoder.layer.{number}."
        for part in ("query", "key", "value"):
            state |= {f"{at}attention.attention.{part}.weight": (d, d), f"{at}attention.attention.{part}.bias": (d,)}
        for layer, (a, b) in {"attention.output.dense": (d, d), "mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)}.items():
            state |= {f"{at}{layer}.weight": (a, b), f"{at}{layer}.bias": (a,)}
        for norm in ("norm1", "norm2"):
            state |= {f"{at}{norm}.weight": (d,), f"{at}{norm}.bias": (d,)}
        state |= {f"{at}layer_scale1.lambda1": (d,), f"{at}layer_scale2.lambda1": (d,)}
    state |= {
        "embeddings.cls_token": (1, 1, d),
        "embeddings.mask_token": (1, d),
        "embeddings.position_embeddings": (1, 197, d),
        "embeddings.patch_embeddings.projection.weight": (d, 3, 16, 16),
        "embeddings.patch_embeddings.projection.bias": (d,),
        "layernorm.weight": (d,),
        "layernorm.bias": (d,),
    }
    found = phikon_to_timm({key: torch.empty(shape, device="meta") for key, shape in state.items()})
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in network.state_dict().items()}


def test_phikon_queries_keys_and_values_keep_their_order():
    at = "encoder.layer.0.attention.attention."
    state = {
        "embeddings.cls_token": torch.zeros(1),
        **{f"{at}{p}.bias": torch.full((2,), i) for i, p in enumerate(("query", "key", "value"))},
    }
    assert phikon_to_timm(state)["blocks.0.attn.qkv.bias"].tolist() == [0, 0, 1, 1, 2, 2]


def test_ctranspath_downsampling_moves_to_the_next_stage():
    network = registered("ctranspath").build()
    state = dict(network.state_dict())
    published = {}
    for key, value in state.items():
        part = key.split(".")
        if part[0] == "layers" and part[2] == "downsample":
            part[1] = str(int(part[1]) - 1)
        published[".".join(part)] = value
    published |= {
        "layers.0.blocks.1.attn_mask": torch.zeros(1),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(1),
    }
    assert "layers.0.downsample.reduction.weight" in published
    found = ctranspath_to_timm(published)
    assert set(found) == set(state)
    assert all(torch.equal(found[key], state[key]) for key in state)
    assert {
        "patch_embed.proj.0.weight",
        "patch_embed.proj.3.weight",
        "patch_embed.proj.6.bias",
        "patch_embed.norm.weight",
    } <= set(found)


def test_conch_keeps_the_image_tower():
    with torch.device("meta"):
        network = registered("conch").build()
    own = {f"visual.{key}": value for key, value in network.state_dict().items()}
    published = own | {
        "visual.proj_contrast": 0,
        "visual.attn_pool_caption.query": 0,
        "text.cls_emb": 0,
        "logit_scale": 0,
    }
    assert set(image_tower(published)) == set(network.state_dict())
    assert {"attn_pool_contrast.attn.q_proj_weight", "attn_pool_contrast.query", "trunk.pos_embed"} <= set(
        network.state_dict()
    )


def test_token_pooling():
    from stpredict.encoders._tokens import ClassAndMean

    class Trunk(torch.nn.Module):
        num_prefix_tokens = 3

        def forward(self, tiles):
            return torch.arange(2 * 7 * 4.0).reshape(2, 7, 4)

    tokens = Trunk()(None)
    assert torch.equal(ClassAndMean(Trunk(), False)(None), tokens[:, 0])
    assert torch.equal(ClassAndMean(Trunk(), True)(None), torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], 1))


def test_headless_drops_the_last_layer_only():
    network, head, dim = headless("vgg11")
    assert (head, dim) == ("classifier.6", 4096)
    assert isinstance(network.classifier[3], torch.nn.Linear)
