"""Drawings of edges and nuclei in the squares of tiles around observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
import torch

import stpredict as stp
from stpredict.encoders._edges import edges_by_differences, edges_by_network
from stpredict.encoders._encoder import IMAGENET_MEAN, IMAGENET_STD
from stpredict.encoders._pidinet import DifferenceConv, PiDiNet

TILE, KEY = 20, "X_mine"


class Darkness(torch.nn.Module):
    """Share of black in a drawing, from tiles that are standardized as for ImageNet."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        return 1 - (tiles.mean(dim=(2, 3)) * std + mean)


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ad.AnnData:
    """White, with one dark square that fills the lower right quarter of the tile of spot 7, and is its nucleus."""
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(stp.settings, "progress", False)
    image = np.full((100, 120, 3), 235, dtype=np.uint8)
    image[30:40, 30:40] = [90, 60, 140]
    row, col = np.mgrid[:5, :6].reshape(2, -1)
    adata = ad.AnnData(
        np.zeros((30, 1), dtype=np.float32), obs=pd.DataFrame({"sample": "a"}, index=list(map(str, range(30))))
    )
    adata.obsm["spatial"] = np.column_stack([col, row]) * float(TILE) + TILE / 2
    adata.uns["spatial"] = {
        "a": {"images": {"hires": image}, "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": 1.0}}
    }
    import geopandas as gpd

    stp.pp.nuclei(adata, gpd.GeoDataFrame(geometry=[shapely.box(30, 30, 40, 40)]))
    return adata


def run(adata: ad.AnnData, **options: Any) -> None:
    options = {"tile_um": TILE, "tile_px": TILE, "key_added": KEY, "cache": False} | options
    stp.pp.boundary_features(adata, Darkness(), **options)


def test_nuclei_and_edges_are_where_they_are(section: ad.AnnData) -> None:
    run(section)
    nuclei, edges = (section.obsm[f"{KEY}_{what}"] for what in ("nuclei", "edges"))
    own = np.zeros(30)
    own[7] = 0.25
    np.testing.assert_allclose(nuclei[:, 12, 0], own, atol=1e-6)
    # Spot 0 sees it to the lower right, spot 14 to the upper left.
    assert nuclei[0, 18, 0] == nuclei[14, 6, 0] == pytest.approx(0.25)
    drawn = edges[:, 12, 0] > 0.05
    assert drawn[7]
    assert drawn.sum() == 1
    assert edges[7, 12, 0] < 0.25  # the outline, not what it is filled with
    mask = section.obsm[f"{KEY}_boundary_mask"]
    stp.pp.neighbor_features(section, Darkness(), tile_um=TILE, tile_px=TILE, key_added=KEY, cache=False)
    np.testing.assert_array_equal(mask, section.obsm[f"{KEY}_neighbor_mask"])
    assert not nuclei[~mask].any()
    record = section.uns["stpredict"][f"{KEY}_edges"]
    assert (record["drawing"], record["grid"]) == ("differences", 5)


def test_built_in_encoders_and_the_cache_know_the_drawing(section: ad.AnnData) -> None:
    stp.pp.boundary_features(section, tile_um=TILE)
    first = [section.obsm[f"X_color-texture_{what}"].copy() for what in ("edges", "nuclei")]
    stp.pp.boundary_features(section, tile_um=TILE)
    for what, values in zip(("edges", "nuclei"), first, strict=True):
        np.testing.assert_array_equal(section.obsm[f"X_color-texture_{what}"], values)
    assert not np.array_equal(*first)
    section.uns["nuclei"]["a"]["area_um2"][:] = 1  # outlines are what counts
    import geopandas as gpd

    stp.pp.nuclei(section, gpd.GeoDataFrame(geometry=[shapely.box(50, 50, 70, 70)]))
    stp.pp.boundary_features(section, tile_um=TILE)
    assert not np.array_equal(section.obsm["X_color-texture_nuclei"], first[1])
    np.testing.assert_array_equal(section.obsm["X_color-texture_edges"], first[0])


def test_sections_without_nuclei(section: ad.AnnData) -> None:
    section.uns["spatial"]["a"]["images"]["hires"][:] = 235
    stp.pp.nuclei(section)
    run(section)
    assert np.abs(section.obsm[f"{KEY}_nuclei"]).max() < 1e-6
    assert section.obsm[f"{KEY}_edges"].max() < 1e-3


def test_without_nuclei_or_with_other_weights_nothing_is_written(
    section: ad.AnnData, tmp_path: Path, frozen: Any
) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    before = frozen(section)
    with pytest.raises(ValueError, match="PiDiNet in .*missing"):
        run(section, edge_weights=tmp_path / "other.pth")
    with pytest.raises(KeyError, match="run stp.pp.nuclei first"):
        run(section, nuclei_key="cells")
    with pytest.raises(ValueError, match="odd number"):
        run(section, grid=2)
    assert frozen(section) == before


def test_edges_do_not_depend_on_the_resolution() -> None:
    ramp = torch.linspace(235, 100, 40).round().to(torch.uint8).expand(1, 3, 40, 40).contiguous()
    fine = ramp.repeat_interleave(2, dim=3)[..., ::1]
    smooth = torch.linspace(235, 100, 80).round().to(torch.uint8).expand(1, 3, 40, 80).contiguous()
    assert fine.shape == smooth.shape
    coarse, half = edges_by_differences(ramp, 1.0).float(), edges_by_differences(smooth, 0.5).float()
    assert abs(coarse[..., 5:-5].mean() - half[..., 10:-10].mean()) < 2
    assert (edges_by_differences(torch.full((1, 3, 8, 8), 90, dtype=torch.uint8), 1.0) == 255).all()


@pytest.mark.parametrize("kind", ["center", "around", "outward"])
def test_convolutions_of_differences(kind: str) -> None:
    """Pixel by pixel; and on a plain picture, away from its border, there is no difference."""
    torch.manual_seed(0)
    layer, maps = DifferenceConv(kind, 1, 1, bias=False), torch.randn(1, 1, 7, 7)
    weight, values = layer.weight[0, 0], maps[0, 0]
    ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]  # clockwise
    wanted = torch.tensor(0.0)
    for i, (row, col) in enumerate(ring):
        here, middle = values[3 + row, 3 + col], values[3, 3]
        before = ring[i - 1]
        after = ring[(i + 1) % 8]
        other = {
            "center": middle,
            "around": values[3 + after[0], 3 + after[1]],
            "outward": here,
        }[kind]
        first = values[3 + 2 * row, 3 + 2 * col] if kind == "outward" else here
        wanted = wanted + weight[1 + row, 1 + col] * (first - other)
        assert before in ring
    if kind != "outward":
        torch.testing.assert_close(layer(maps)[0, 0, 3, 3], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(torch.ones(1, 1, 9, 9))[0, 0, 3:6, 3:6], torch.zeros(3, 3), rtol=0, atol=1e-5)


PUBLISHED = {  # name in the file of the authors, without the number of a stage: shape
    "init_block.weight": (60, 3, 3, 3),
    "block1_3.conv1.weight": (60, 1, 3, 3),
    "block2_1.shortcut.weight": (120, 60, 1, 1),
    "block3_1.conv2.weight": (240, 120, 1, 1),
    "block4_4.conv1.weight": (240, 1, 3, 3),
    "dilations.3.conv1.weight": (24, 240, 1, 1),
    "dilations.0.conv2_4.weight": (24, 24, 3, 3),
    "attentions.1.conv1.weight": (4, 24, 1, 1),
    "attentions.1.conv2.weight": (1, 4, 3, 3),
    "conv_reduces.2.conv.weight": (1, 24, 1, 1),
    "classifier.bias": (1,),
}


def test_edges_of_a_network(section: ad.AnnData, tmp_path: Path) -> None:
    """Weights are read from a checkpoint as the authors write it: of a network on several devices, and its optimizer."""
    torch.manual_seed(0)
    network, path = PiDiNet().eval(), tmp_path / "edges.pth"
    state = network.state_dict()
    assert sum(p.numel() for p in network.parameters()) == 710_149
    assert {name: tuple(state[name].shape) for name in PUBLISHED} == PUBLISHED
    optimizer = torch.optim.Adam(network.parameters()).state_dict()
    told = {"epoch": 19, "state_dict": {f"module.{name}": v for name, v in state.items()}, "optimizer": optimizer}
    torch.save(told, path)
    draw, digest = edges_by_network(path)
    tiles = torch.randint(0, 255, (2, 3, 24, 20), dtype=torch.uint8)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        wanted = 255 * (1 - network((tiles / 255 - mean) / std))
    assert (draw(tiles, 1.0).float() - wanted).abs().max() <= 0.51
    run(section, edge_weights=path)
    assert np.isfinite(section.obsm[f"{KEY}_edges"]).all()
    assert section.uns["stpredict"][f"{KEY}_edges"]["drawing"] == f"pidinet {digest}"
    drawn = section.obsm[f"{KEY}_edges"].copy()
    run(section)
    assert not np.allclose(section.obsm[f"{KEY}_edges"], drawn)
