from __future__ import annotations

import os

import pytest
import torch
from torch import nn

import stpredict as stp
from stpredict.encoders._registry import ENCODERS, registered

TABLE = stp.encoders.list_encoders()
NETWORKS = [name for name in TABLE.index if TABLE.loc[name, "filename"]]
WITHOUT_WEIGHTS = [name for name in TABLE.index if not TABLE.loc[name, "filename"]]
EXPECTED_DIM = {
    "conch": 512,
    "ctranspath": 768,
    "gigapath": 1536,
    "h-optimus-0": 1536,
    "h-optimus-1": 1536,
    "h0-mini": 768,
    "mobilenet_v2": 1280,
    "phikon-v2": 1024,
    "shufflenet_g2_lc25000": 800,
    "uni": 1024,
    "uni2-h": 1536,
    "virchow2": 2560,
}
# Millions of parameters as published; what was built is that network and not a namesake.
EXPECTED_MILLIONS = {"uni": 303, "uni2-h": 681, "virchow2": 631, "h-optimus-0": 1135, "gigapath": 1135, "h0-mini": 86}


class Pool(nn.Module):
    """Mean per channel and a learned scale."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]))

    def forward(self, tiles):
        return tiles.mean(dim=(2, 3)) * self.scale


def random_tiles(n: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_table():
    assert set(EXPECTED_DIM) | {"color-texture"} <= set(TABLE.index)
    assert TABLE["dim"][list(EXPECTED_DIM)].to_dict() == EXPECTED_DIM
    assert (TABLE["license"] != "").all()
    assert (TABLE["citation"] != "").all()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_promised_dimension(name):
    entry = registered(name)
    side = entry.info.tile_px
    with torch.device("meta"), torch.inference_mode():
        network = entry.build().eval()
        features = network(torch.empty(2, 3, side, side))
    assert features.shape == (2, entry.info.dim)
    assert features.dtype == torch.float32
    if name in EXPECTED_MILLIONS:
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(EXPECTED_MILLIONS[name], abs=1)


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_contract(name):
    encoder = stp.encoders.get_encoder(name, device="cpu")
    assert (encoder.name, encoder.dim) == (name, TABLE.loc[name, "dim"])
    tiles = random_tiles(5, encoder.tile_px)
    features = encoder(tiles)
    assert features.dtype == torch.float32
    assert features.shape == (5, encoder.dim)
    assert torch.isfinite(features).all()
    assert torch.equal(features, encoder(tiles))
    alone = torch.cat([encoder(tiles[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, features, atol=1e-4, rtol=1e-4)
    assert encoder(tiles[:0]).shape == (0, encoder.dim)
    assert encoder.fingerprint == stp.encoders.get_encoder(name, device="cpu").fingerprint


def test_color_statistics_are_six_numbers_by_hand():
    tiles = random_tiles(3, 112)
    features = stp.encoders.get_encoder("color-statistics", device="cpu")(tiles)
    pixels = tiles.double().flatten(2) / 255
    wanted = torch.cat([pixels.mean(2), pixels.std(2, correction=0)], dim=1)
    torch.testing.assert_close(features, wanted.float(), atol=1e-5, rtol=1e-5)


def test_unknown_names():
    with pytest.raises(KeyError, match="color-texture"):
        stp.encoders.get_encoder("uni3")
    with pytest.raises(ValueError, match="timm network"):
        stp.encoders.get_encoder("timm:resnet19")
    with pytest.raises(ValueError, match="torchvision network"):
        stp.encoders.get_encoder("torchvision:resnet19")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="has none"):
        stp.encoders.get_encoder("color-texture", weights="x.pt")
    with pytest.raises(TypeError, match="tile_um"):
        stp.encoders.get_encoder("color-texture", img_size=3)
    with pytest.raises(ValueError, match="tile_px"):
        stp.encoders.get_encoder(Pool())
    with pytest.raises(TypeError, match="name, a module or a function"):
        stp.encoders.get_encoder(3, tile_px=8)


def test_tiles_are_checked():
    encoder = stp.encoders.get_encoder("color-texture", device="cpu")
    with pytest.raises(TypeError, match="uint8"):
        encoder(torch.zeros(1, 3, 112, 112))
    with pytest.raises(ValueError, match=r"\(b, 3, 112, 112\)"):
        encoder(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_a_network_of_ones_own():
    encoder = stp.encoders.get_encoder(Pool(), device="cpu", tile_px=16, name="pool")
    assert (encoder.name, encoder.dim, encoder.tile_px, encoder.reproducible) == ("pool", 3, 16, True)
    tiles = random_tiles(3, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (tiles.float().mean(dim=(2, 3)) / 255 - mean) / std
    torch.testing.assert_close(encoder(tiles), expected)
    assert stp.encoders.get_encoder(encoder) is encoder


def test_fingerprint_sees_weights_and_transform():
    def prints(**kwargs):
        network = Pool(kwargs.pop("scale", 1.0))
        return stp.encoders.get_encoder(network, device="cpu", **{"tile_px": 16, "name": "pool"} | kwargs).fingerprint

    different = [{}, {"scale": 2.0}, {"tile_px": 8}, {"mean": (0, 0, 0)}, {"std": (1, 1, 1)}, {"name": "other"}]
    assert len({prints(**kwargs) for kwargs in different}) == len(different)
    assert prints() == prints()


def test_functions_are_not_reproducible():
    encoder = stp.encoders.get_encoder(lambda tiles: tiles.mean(dim=(2, 3)), device="cpu", tile_px=8, name="mean")
    assert not encoder.reproducible
    assert encoder.dim == 3


def test_features_must_be_vectors():
    with pytest.raises(ValueError, match="one feature vector per tile"):
        stp.encoders.get_encoder(nn.Identity(), tile_px=8, device="cpu")


def test_register_and_taken_names():
    try:

        @stp.encoders.register("test-pool", dim=3, tile_px=8, license="MIT")
        def pool():
            return Pool()

        assert stp.encoders.get_encoder("test-pool", device="cpu").dim == 3
        assert "test-pool" in stp.encoders.list_encoders().index
        with pytest.raises(ValueError, match="new encoder name"):
            stp.encoders.register("test-pool", dim=3, tile_px=8)(lambda: Pool())
    finally:
        if "test-pool" in ENCODERS:
            ENCODERS.remove("test-pool")


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in {"mobilenet_v2", "ctranspath"}])
def test_offline_names_the_repository_and_the_file(name, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    info = registered(name).info
    with pytest.raises(FileNotFoundError, match="weights=PATH") as error:
        stp.encoders.get_encoder(name)
    assert info.source in str(error.value)
    assert info.filename in str(error.value)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("name", ["mobilenet_v2", "ctranspath"])
def test_weights_that_are_on_no_hub_must_be_given(name):
    with pytest.raises(FileNotFoundError, match="weights=PATH"):
        stp.encoders.get_encoder(name)


def test_gated_weights_say_where_to_ask(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_, **__):
        error = GatedRepoError.__new__(GatedRepoError)
        Exception.__init__(error, "gated")
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(RuntimeError, match="MahmoodLab/UNI2-h.*accept its terms.*weights=PATH"):
        stp.encoders.get_encoder("uni2-h")
