from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import stpredict as stp
from stpredict.pp._tissue import tissue_mask

H, W = 240, 320
BOX = np.zeros((H, W), dtype=bool)
BOX[60:180, 80:240] = True


def thumbnail(glass: tuple[int, int, int] = (243, 243, 243), box: np.ndarray = BOX, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picture = np.array(glass) + rng.normal(scale=1.2, size=(H, W, 3))
    stain = np.array([185, 105, 160]) / 243 * np.array(glass) + rng.normal(scale=15, size=(H, W, 1))
    return np.clip(np.where(box[..., None], stain, picture), 0, 255).astype(np.uint8)


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


@pytest.mark.parametrize("glass", [(243, 243, 243), (235, 216, 231), (220, 207, 223), (185, 185, 188), (245, 240, 215)])
def test_mask_finds_the_tissue_whatever_the_color_of_the_glass(glass: tuple[int, int, int]) -> None:
    assert overlap(tissue_mask(thumbnail(glass), 8.0), BOX) > 0.97


def test_mask_ignores_padding_borders_and_ink() -> None:
    picture = thumbnail()
    picture[:30] = 0
    picture[:, :20] = 255
    picture[-12:] = (28, 24, 35)
    picture[40:46, 60:300] = (30, 70, 170)
    picture[200:206, 60:300] = (30, 120, 60)
    picture[210:216, 60:300] = (60, 60, 66)
    assert overlap(tissue_mask(picture, 8.0), BOX) > 0.96


def test_mask_leaves_out_stain_that_bled_into_the_glass() -> None:
    picture = thumbnail((235, 216, 231)).astype(float)
    halo = np.exp(-ndimage.distance_transform_edt(~BOX) / 20)[..., None] * ~BOX[..., None]
    picture = np.clip(picture - halo * np.array([0, 12, 4]), 0, 255).astype(np.uint8)
    assert overlap(tissue_mask(picture, 8.0), BOX) > 0.95


def test_mask_of_a_picture_full_of_tissue_is_all_of_it() -> None:
    everywhere = np.ones((H, W), dtype=bool)
    assert tissue_mask(thumbnail(box=everywhere), 8.0).mean() > 0.99
    half = thumbnail(box=everywhere)
    half[:, : W // 2] = np.clip(half[:, : W // 2] * 0.6, 0, 255).astype(np.uint8)  # dark beside pale tissue
    assert tissue_mask(half, 8.0).mean() > 0.99


def test_mask_keeps_pale_tissue_beside_dark_tissue() -> None:
    pale = np.zeros((H, W), dtype=bool)
    pale[60:180, 20:160] = True
    dark = np.zeros((H, W), dtype=bool)
    dark[60:180, 160:300] = True
    picture = thumbnail(box=dark).astype(float)
    picture[pale] = np.array([226, 200, 218]) + np.random.default_rng(1).normal(scale=6, size=(pale.sum(), 1))
    picture[dark] -= 40
    assert overlap(tissue_mask(np.clip(picture, 0, 255).astype(np.uint8), 8.0), pale | dark) > 0.97


@pytest.mark.parametrize("glass", [(243, 243, 243), (235, 216, 231), (185, 185, 188)])
def test_mask_of_an_empty_slide_is_empty(glass: tuple[int, int, int]) -> None:
    assert not tissue_mask(thumbnail(glass, np.zeros((H, W), dtype=bool)), 8.0, min_area_um2=5e4).any()


def test_mask_drops_small_pieces_and_fills_small_holes() -> None:
    box = BOX.copy()
    box[10:24, 10:24] = True  # 14 px = 112 µm across
    box[100:140, 140:180] = False  # 320 µm across
    both = tissue_mask(thumbnail(box=box), 8.0)
    assert both[17, 17]
    assert not both[120, 160]
    cleaned = tissue_mask(thumbnail(box=box), 8.0, min_area_um2=2e4, min_hole_um2=2e5)
    assert not cleaned[17, 17]
    assert cleaned[120, 160]


def test_tissue_writes_polygons_in_level_0_pixels(open_painted: Callable[..., Any]) -> None:
    from shapely import box

    slide = open_painted()
    assert stp.pp.tissue(slide) is None
    frame = slide.shapes["tissues"]
    assert list(frame["tissue_id"]) == [0, 1]
    for polygon, truth in zip(frame.geometry, [box(100, 100, 700, 900), box(900, 300, 1300, 700)], strict=True):
        assert polygon.is_valid
        assert polygon.intersection(truth).area / polygon.union(truth).area > 0.95


def test_tissue_keeps_holes(open_painted: Callable[..., Any], request: pytest.FixtureRequest) -> None:
    slide = open_painted()
    picture = slide.reader.get_region(0, 0, 1400, 1000).copy()
    picture[400:600, 300:500] = 243
    holed = open_painted(picture, name="holed")
    stp.pp.tissue(holed)
    (hole,) = holed.shapes["tissues"].geometry.iloc[0].interiors
    assert hole.bounds == pytest.approx((300, 400, 500, 600), abs=16)


def test_tissue_copy_leaves_the_slide_alone(open_painted: Callable[..., Any]) -> None:
    slide = open_painted()
    changed = stp.pp.tissue(slide, key_added="found", copy=True)
    assert "found" in changed.shapes
    assert not slide.shapes
    assert changed.reader is slide.reader


def test_tissue_refuses_slides_without_any(open_painted: Callable[..., Any]) -> None:
    blank = open_painted(np.full((800, 800, 3), 240, dtype=np.uint8))
    with pytest.raises(ValueError, match="expected tissue on slide 'slide'; found none"):
        stp.pp.tissue(blank)
    with pytest.raises(ValueError, match="found none in pieces of 1e"):
        stp.pp.tissue(open_painted(name="two"), min_area_um2=1e9)
    assert not blank.shapes


def test_tissue_refuses_other_input(open_painted: Callable[..., Any]) -> None:
    from spatialdata import SpatialData

    with pytest.raises(TypeError, match="SpatialData without a slide"):
        stp.pp.tissue(SpatialData())
    with pytest.raises(TypeError, match="ndarray"):
        stp.pp.tissue(np.zeros(3))
    with pytest.raises(ValueError, match="method"):
        stp.pp.tissue(open_painted(), method="magic")
