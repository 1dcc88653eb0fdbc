"""Squares of tiles around observations: what is where, what is outside, and that no tile is encoded twice."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import stpredict as stp

TILE = 20
KEY = "X_mine"


class Counting(torch.nn.Module):
    """Mean color of a tile; counts the tiles that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        self.seen += len(tiles)
        return tiles.mean(dim=(2, 3))


@pytest.fixture(autouse=True)
def cache_in_a_temporary_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(stp.settings, "progress", False)
    monkeypatch.setattr(stp.settings, "device", "cpu")


def sections(n_rows: int = 6, n_cols: int = 7, pitch: int = TILE, names: tuple[str, ...] = ("a",)) -> ad.AnnData:
    """Spots on a square lattice whose picture they fill; noise, so that every tile differs."""
    row, col = np.mgrid[:n_rows, :n_cols].reshape(2, -1)
    parts, spatial = [], {}
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(20, 235, (n_rows, n_cols, 3))
        image = np.kron(coarse, np.ones((pitch, pitch, 1))) + rng.integers(-20, 20, (n_rows * pitch, n_cols * pitch, 3))
        obs = pd.DataFrame({"sample": name}, index=[f"{name}{i}" for i in range(len(row))])
        part = ad.AnnData(np.zeros((len(row), 1), dtype=np.float32), obs=obs)
        part.obsm["spatial"] = np.column_stack([col, row]) * float(pitch) + pitch / 2
        parts.append(part)
        spatial[name] = {
            "images": {"hires": image.astype(np.uint8)},
            "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": 1.0},
        }
    adata = ad.concat(parts)
    adata.uns["spatial"] = spatial
    return adata


def run(adata: ad.AnnData, network: Any = None, tile: int = TILE, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    network = Counting() if network is None else network
    options = {"tile_um": tile, "tile_px": tile, "key_added": KEY, "cache": False} | options
    stp.pp.neighbor_features(adata, network, **options)
    return adata.obsm[f"{KEY}_neighbors"], adata.obsm[f"{KEY}_neighbor_mask"]


def test_tiles_that_squares_share_are_encoded_once() -> None:
    adata, network = sections(), Counting()
    encoder = stp.encoders.get_encoder(network, tile_px=TILE, name="mine")
    network.seen = 0  # a network is tried out once
    _, mask = run(adata, encoder, tile_px=None)
    assert network.seen == adata.n_obs == 42  # and not 25 times as many
    assert mask.sum() > 10 * network.seen
    record = adata.uns["stpredict"][f"{KEY}_neighbors"]
    assert record["n_tiles"] == {"a": 42}
    assert record["masked"] == {"a": int((~mask).sum())}
    # Where the pitch is three tiles, squares of five share the outermost.
    apart = sections(pitch=3 * TILE)
    network.seen = 0
    _, mask = run(apart, encoder, tile_px=None)
    different = apart.uns["stpredict"][f"{KEY}_neighbors"]["n_tiles"]["a"]
    assert network.seen == different < mask.sum()


def test_every_place_holds_the_tile_that_lies_there() -> None:
    adata = sections()
    features, mask = run(adata)
    own = features[:, 12].reshape(6, 7, 3)
    for i in range(42):
        for place in range(25):
            row, col = i // 7 + place // 5 - 2, i % 7 + place % 5 - 2
            inside = 0 <= row < 6 and 0 <= col < 7
            assert mask[i, place] == inside
            np.testing.assert_array_equal(features[i, place], own[row, col] if inside else 0)


def test_the_middle_is_the_tile_of_image_features_also_at_the_border() -> None:
    adata = sections()
    adata.obsm["spatial"] -= [3, 7]
    features, mask = run(adata, tile=24)
    stp.pp.image_features(adata, Counting(), tile_um=24, tile_px=24, key_added=KEY, cache=False)
    np.testing.assert_allclose(features[:, 12], adata.obsm[KEY], rtol=1e-6)
    assert mask[:, 12].all()
    assert not mask[0, :12].any()


def test_a_built_in_encoder_and_the_order_of_spots() -> None:
    adata = sections(names=("a", "b"))
    stp.pp.neighbor_features(adata, tile_um=TILE, cache=False)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    other = adata[order].copy()
    stp.pp.neighbor_features(other, tile_um=TILE, cache=False, batch_size=5)
    for slot in ("X_color-texture_neighbors", "X_color-texture_neighbor_mask"):
        np.testing.assert_allclose(other.obsm[slot], adata.obsm[slot][order], rtol=1e-5, atol=1e-5)
    assert stp.pp.neighbor_features(adata, grid=3, tile_um=TILE, cache=False, copy=True).obsm[
        "X_color-texture_neighbors"
    ].shape == (84, 9, 153)
    assert adata.obsm["X_color-texture_neighbors"].shape == (84, 25, 153)


def test_cached_features_are_found_by_what_they_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from stpredict.pp import _squares

    calls: list[int] = []
    encode = _squares.encoded_around

    def counted(*args: Any) -> Any:
        calls.append(1)
        return encode(*args)

    monkeypatch.setattr(_squares, "encoded_around", counted)
    adata = sections()
    for options, n in (({}, 1), ({}, 1), ({"grid": 3}, 1), ({"tile_um": 2 * TILE}, 2)):
        stp.pp.neighbor_features(adata, **({"tile_um": TILE} | options))
        assert len(calls) == n, options
    first = adata.obsm["X_color-texture_neighbors"]
    adata.uns["spatial"]["a"]["images"]["hires"][:5] = 0
    stp.pp.neighbor_features(adata, tile_um=2 * TILE)
    assert len(calls) == 3
    assert not np.array_equal(first, adata.obsm["X_color-texture_neighbors"])


def test_errors_leave_everything_as_it_was(frozen: Any) -> None:
    adata = sections()
    before = frozen(adata)
    for options, message in (
        ({"grid": 4}, "grid to be an odd number"),
        ({"grid": 0}, "grid to be an odd number"),
        ({"batch_size": 0}, "batch_size"),
        ({"tile_um": -1}, "tile_um"),
        ({"key_added": "a/b"}, "key_added"),
    ):
        with pytest.raises(ValueError, match=message):
            run(adata, **options)
    assert frozen(adata) == before


def test_networks_read_them() -> None:
    """From pictures to a prediction: features, neighbors, grid, fit, predict."""
    adata = sections(names=("a", "b", "c"))
    adata.obs["patient"] = adata.obs["sample"].astype(str)
    stp.pp.image_features(adata, Counting(), tile_um=TILE, tile_px=TILE, key_added=KEY, cache=False)
    run(adata)
    stp.pp.grid(adata)
    adata.X = np.random.default_rng(0).poisson(5, (adata.n_obs, 1)).astype(np.float32)
    stp.pp.normalize(adata)
    train = (adata.obs["sample"] != "c").to_numpy()
    model = stp.tl.fit(
        adata, "triplex", train, hyperparameters="small", training={"max_epochs": 1, "patience": 0}, baselines=False
    )
    stp.tl.predict(adata, model)
    assert np.isfinite(adata.obsm["predicted"]).all(axis=None)
    patches = {"target": "patches", "patch_px": 32, "patch_um": TILE}
    sizes = stp.models.get_model("triplex").options("small") | patches
    quick = {"max_epochs": 1, "patience": 0}
    first = (adata.obs["sample"] == "a").to_numpy()
    seen = stp.tl.fit(adata, "triplex", first, hyperparameters=sizes, training=quick, baselines=False)
    stp.tl.predict(adata, seen)
    assert np.isfinite(adata.obsm["predicted"]).all(axis=None)
    del adata.obsm[f"{KEY}_neighbors"]
    with pytest.raises(KeyError, match="run stp.pp.neighbor_features\\(adata, 'mine'\\)"):
        stp.tl.predict(adata, model)
