from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import stpredict as stp
from stpredict.pp._image_features import image_features

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_her2st = pytest.mark.skipif(not (DATA / "her2st" / "images").exists(), reason="her2st is not in ../shared/data")
needs_weights = pytest.mark.skipif(
    not (DATA / "encoders" / "mobilenet_v2.safetensors").exists(), reason="MobileNetV2 is not in ../shared/data"
)


@pytest.fixture(scope="module")
def section():
    return stp.io.read_her2st(DATA / "her2st", sections=["C2"])


@needs_her2st
def test_color_texture_tells_tissue_apart(section):
    """Deep epithelium and stroma differ: features vary between spots, and neighbors are more alike than strangers."""
    image_features(section, cache=False, progress=False)
    features = section.obsm["X_color-texture"]
    assert np.isfinite(features).all()
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    assert (features.std(axis=0) > 0).mean() > 0.98
    distance = np.linalg.norm(scaled[:, None] - scaled, axis=2)
    apart = np.linalg.norm(section.obsm["spatial"][:, None] - section.obsm["spatial"], axis=2)
    near = (apart > 0) & (apart < 350)
    assert distance[near].mean() < 0.9 * distance[apart > 1000].mean()


@needs_her2st
@needs_weights
def test_mobilenet_features_of_real_tiles(section):
    few = section[::6].copy()
    weights = DATA / "encoders" / "mobilenet_v2.safetensors"
    image_features(few, "mobilenet_v2", weights=weights, cache=False, progress=False)
    features = few.obsm["X_mobilenet_v2"]
    assert features.shape == (few.n_obs, 1280)
    assert np.isfinite(features).all()
    assert features.min() >= 0  # the last activation is clipped to 0…6, then averaged
    assert features.max() <= 6
    assert len(np.unique(features.round(3), axis=0)) == few.n_obs
    assert (features.std(axis=0) > 1e-3).mean() > 0.9


@needs_weights
def test_mobilenet_behaves_like_an_imagenet_classifier():
    """With its classifier, the network is sure of plain patterns far beyond chance, and tells them apart."""
    import torch

    from stpredict.core._optional import import_torchvision
    from stpredict.core._read_weights import read_weights

    network = import_torchvision("torchvision.models").get_model("mobilenet_v2", weights=None).eval()
    state = {key: value.float() for key, value in read_weights(DATA / "encoders" / "mobilenet_v2.safetensors").items()}
    network.load_state_dict(state, strict=False)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
    blank = torch.ones(3, 224, 224)
    board = ((x * 4).floor() + (y * 4).floor()).remainder(2).expand(3, -1, -1) * 2 - 1
    with torch.inference_mode():
        bets = network(torch.stack([blank, board])).softmax(dim=1)
    assert bets.max(dim=1).values.min() > 20 / 1000
    assert bets[0].argmax() != bets[1].argmax()


@pytest.mark.skipif(
    not (DATA / "encoders" / "shufflenet_g2_lc25000.safetensors").exists(),
    reason="the ShuffleNet of LC25000 is not in ../shared/data",
)
def test_shufflenet_of_histology_tells_its_classes_apart():
    """Features of its 800 maps are finite and differ; whole tiles of other organs differ more than a shift of one."""
    import torch
    from PIL import Image

    weights = DATA / "encoders" / "shufflenet_g2_lc25000.safetensors"
    encoder = stp.encoders.get_encoder("shufflenet_g2_lc25000", weights=weights, device="cpu")
    assert sum(p.numel() for p in encoder.network.parameters()) == 883_577 - 5 * 801  # without the classifier
    tiles = [np.array(Image.open(path).convert("RGB")) for path in sorted((DATA / "nct_tiles").glob("*.*"))]
    tiles = [tile for tile in tiles if tile.shape == (224, 224, 3)]
    if not tiles:
        pytest.skip("nct_tiles is not in ../shared/data")
    shifted = torch.from_numpy(np.stack([tile[::7, ::7] for tile in tiles])).permute(0, 3, 1, 2)
    features = encoder(shifted.contiguous())
    assert torch.isfinite(features).all()
    distance = torch.cdist(features, features)
    near = (encoder(shifted.roll(1, dims=3).contiguous()) - features).norm(dim=1)
    assert near.median() < 0.5 * distance[~torch.eye(len(tiles), dtype=torch.bool)].median()
