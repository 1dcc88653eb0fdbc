"""Features of every place: where they lie, what of the picture they hold, and where they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import stpredict as stp
from stpredict.pp._dense_features import color_map

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (208, 304, 3), dtype=np.uint8)


def spots(image: np.ndarray = IMAGE) -> ad.AnnData:
    height, width = image.shape[:2]
    xy = np.array([[width * 0.3, height * 0.4], [width * 0.8, height * 0.6]])
    obs = pd.DataFrame({"sample": "S1"}, index=["a", "b"])
    return ad.AnnData(np.zeros((2, 1), dtype=np.float32), obs, obsm={"spatial": xy})


def dense(*args: Any, image: np.ndarray = IMAGE, **options: Any) -> stp.pp.DenseMap:
    given = {"image": image, "microns_per_pixel": 0.5, "check": False, **options}
    return stp.pp.dense_features(spots(image), *args, **given)["S1"]


class Blocks(torch.nn.Module):
    """Tokens of 8 pixels: their mean color."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.mean(dim=(2, 3))

    def tokens(self, tiles: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(tiles, 8)


def blocks() -> stp.encoders.Encoder:
    return stp.encoders.Encoder(Blocks(), "blocks", 64, tile_um=32, mean=(0, 0, 0), std=(1, 1, 1), device="cpu")


def test_color_is_that_of_the_pixels_of_a_place() -> None:
    found = dense(color=(1,))
    assert found.shape == (13, 19, 4)
    pixels = IMAGE.reshape(13, 16, 19, 16, 3).swapaxes(1, 2).reshape(13, 19, -1, 3) / 255
    assert np.abs(found.values[..., :3] - pixels.mean(axis=2)).max() < 1e-5
    assert np.abs(found.values[..., 3] - pixels.mean(axis=3).std(axis=2)).max() < 1e-4
    assert found.reach_um == 8


def test_pixels_count_by_the_share_that_is_covered() -> None:
    """Places of 2.5 pixels: the third pixel is half of the first place, half of the second."""
    from stpredict.io._section_image import SectionImage

    row = np.array([0, 51, 102, 153, 204], dtype=np.uint8)
    image = np.repeat(np.repeat(row[None, :, None], 5, axis=0), 3, axis=2)
    found = color_map(SectionImage(image), 2.5, (2, 2), (1,))
    assert np.allclose(found[0, :, 0] * 255, [(0 + 51 + 51) / 2.5, (51 + 153 + 204) / 2.5], atol=1e-3)
    assert np.allclose(found[0], found[1], atol=1e-6)


def test_wider_color_is_the_mean_over_places() -> None:
    found = dense(color=(1, 3))
    wide, narrow = found.values[..., 4:7], found.values[..., :3]
    assert np.abs(wide[5, 7] - narrow[4:7, 6:9].mean(axis=(0, 1))).max() < 1e-5
    assert found.reach_um == 24


def test_tokens_lie_where_their_pixels_are() -> None:
    """Tokens that are means of pixels are the means of the places, for any square of places a tile is for."""
    found = dense(blocks(), 4.0, color=(1,))
    inner = (slice(4, -4), slice(4, -4))
    assert found.names[-3:] == ("blocks_0", "blocks_1", "blocks_2")
    assert np.abs(found.values[inner][..., 4:] - found.values[inner][..., :3]).max() < 1e-5
    assert found.reach_um == 32 + 3 * 4


def test_an_encoder_without_tokens_sees_a_window() -> None:
    def mean(tiles: torch.Tensor) -> torch.Tensor:
        return tiles.mean(dim=(2, 3))

    encoder = stp.encoders.Encoder(mean, "own", 16, mean=(0, 0, 0), std=(1, 1, 1), device="cpu")
    found = dense(encoder, 8.0, tile_um=8.0, color=(1,))
    assert np.abs(found.values[..., 4:] - found.values[..., :3]).max() < 1e-5
    assert not found.record["tokens"]


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "torchvision:mobilenet_v3_small"])
def test_tokens_of_known_networks(name: str) -> None:
    from stpredict.core._optional import import_torchvision
    from stpredict.encoders import Encoder

    library, model = name.split(":")
    if library == "timm":
        timm = import_torchvision("timm")
        network = timm.create_model(model, pretrained=False, num_classes=0)
    else:
        models = import_torchvision("torchvision.models")
        network = models.get_model(model, weights=None)
    encoder = Encoder(network, "net", 224, device="cpu")
    tokens = encoder.tokens(torch.randint(0, 255, (1, 3, 224, 224), dtype=torch.uint8))
    assert encoder.has_tokens
    assert tuple(tokens.shape) == ((1, 192, 14, 14) if library == "timm" else (1, 576, 7, 7))


def test_pooled_features_are_no_tokens() -> None:
    encoder = stp.encoders.get_encoder("color-statistics", device="cpu")
    assert not encoder.has_tokens
    with pytest.raises(TypeError, match="expected an encoder with tokens"):
        encoder.tokens(torch.zeros(1, 3, 112, 112, dtype=torch.uint8))


def test_stores_and_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written in blocks of few rows, the map is the same; a lazy picture is one as well."""
    import zarr

    import stpredict.pp._dense_features as module

    usual = dense(blocks(), 4.0)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 20_000)
    monkeypatch.setattr(module, "_BAND_BYTES", 50_000)
    lazy = zarr.create_array(tmp_path / "picture", shape=IMAGE.shape, chunks=(64, 64, 3), dtype="uint8")
    lazy[:] = IMAGE
    stored = dense(blocks(), 4.0, image=lazy, store=tmp_path / "dense")
    assert stored.values.chunks[0] < stored.shape[0]
    assert np.allclose(stored.rows(0, stored.shape[0]), usual.values, atol=1e-6)
    again = stp.io.read_dense(tmp_path / "dense")["S1"]
    assert (again.names, again.origin, again.reach_um) == (usual.names, usual.origin, usual.reach_um)
    assert dict(again.record) == dict(usual.record)


def test_damaged_and_foreign_stores(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found nothing"):
        stp.io.read_dense(tmp_path / "none")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="found something else"):
        stp.io.read_dense(tmp_path / "own")
    with pytest.raises(FileExistsError):
        dense(store=tmp_path / "own")
    assert (tmp_path / "own" / "notes.txt").read_text() == "mine"
    dense(store=tmp_path / "dense")
    (tmp_path / "dense" / "S1" / "values" / "zarr.json").unlink()
    with pytest.raises(ValueError, match="found them damaged"):
        stp.io.read_dense(tmp_path / "dense")


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((), {"color": ()}, "expected an encoder or widths of color"),
        ((), {"color": (0,)}, "whole numbers of places"),
        ((), {"color": (2, 2)}, "different whole numbers"),
        ((None, 0.25), {}, "places of at least a pixel"),
        ((None, -1.0), {}, "microns"),
    ],
)
def test_errors(args: tuple, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense(*args, **options)
