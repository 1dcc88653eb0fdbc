from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stpredict as stp

Opener = Callable[..., Any]


def painted(height: int, width: int, boxes: list[tuple[int, int, int, int]], seed: int = 0) -> np.ndarray:
    """Glass with boxes (top, bottom, left, right) of textured tissue, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 243, dtype=np.int64) + rng.integers(-1, 2, (height, width, 1))
    for top, bottom, left, right in boxes:
        texture = rng.integers(-40, 41, ((bottom - top + 7) // 8, (right - left + 7) // 8, 1)).repeat(8, 0).repeat(8, 1)
        tilt = np.linspace(-15, 15, right - left)[None, :, None] * np.array([1, -1, 0.5])
        picture[top:bottom, left:right] = (
            np.array([185, 105, 160]) + texture[: bottom - top, : right - left] + tilt
        ).astype(np.int64)
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture
def open_painted(tmp_path: Path) -> Opener:
    """Write a picture as a pyramidal TIFF and open it; a slide of 1000 × 1400 px with two boxes of tissue by default."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("wsidata")

    def opener(
        picture: np.ndarray | None = None,
        mpp: float = 1.0,
        *,
        levels: int = 2,
        given: float | None = None,
        name: str = "slide",
        **kwargs: Any,
    ) -> Any:
        if picture is None:
            picture = painted(1000, 1400, [(100, 900, 100, 700), (300, 700, 900, 1300)])
        path = tmp_path / f"{name}.tiff"
        with tifffile.TiffWriter(path) as file:
            for level in range(levels):
                step = 2**level
                h, w = (size // step for size in picture.shape[:2])
                small = picture[: h * step, : w * step].reshape(h, step, w, step, 3).mean(axis=(1, 3)).astype(np.uint8)
                file.write(
                    small, tile=(256, 256), photometric="rgb", compression="deflate", subfiletype=int(level > 0),
                    resolution=(1e4 / mpp / step,) * 2, resolutionunit="CENTIMETER",
                )  # fmt: skip
        return stp.io.open_slide(path, given, **kwargs)

    return opener


@pytest.fixture
def tiled(open_painted: Opener) -> Any:
    """Slide of patient P1 with its tissue and 64-µm tiles."""
    slide = open_painted(patient="P1")
    stp.pp.tissue(slide)
    stp.pp.tiles(slide, tile_um=64, tile_px=64)
    return slide
