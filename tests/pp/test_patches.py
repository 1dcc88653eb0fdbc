"""Patches of pixels for end-to-end networks."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.pp._patches import patch_stack

SIDE = 8


@pytest.fixture
def adata(tmp_path, monkeypatch) -> ad.AnnData:
    """Two sections whose spots alternate, with pictures of noise, so that no two patches are alike."""
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path)
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"sample": ["a", "b"] * 6, "patient": ["p", "q"] * 6}, index=[f"o{i}" for i in range(12)])
    table = ad.AnnData(np.zeros((12, 1), np.float32), obs=obs)
    table.obsm["spatial"] = rng.integers(SIDE, 60 - SIDE, (12, 2)).astype(float)
    table.uns["spatial"] = {
        name: {
            "images": {"hires": rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)},
            "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": 1.0},
        }
        for name in "ab"
    }
    return table


def naive(adata: ad.AnnData, row: int) -> np.ndarray:
    x, y = (adata.obsm["spatial"][row] - SIDE / 2).astype(int)
    picture = adata.uns["spatial"][adata.obs["sample"].iloc[row]]["images"]["hires"]
    return picture[y : y + SIDE, x : x + SIDE]


@pytest.mark.parametrize("kept", [range(12), [1, 2, 5, 8, 11], [9]])
def test_every_observation_gets_its_own_patch(adata, kept):
    rows = np.isin(np.arange(12), list(kept))
    stack = patch_stack(adata, adata, rows, patch_um=SIDE, patch_px=SIDE)
    order = np.random.default_rng(1).permutation(len(stack))
    assert len(stack) == len(kept)
    for patch, row in zip(stack[order], np.flatnonzero(rows)[order], strict=True):
        np.testing.assert_array_equal(patch, naive(adata, row))


def test_patches_are_found_again_and_cut_again_when_damaged(adata, tmp_path):
    rows = np.ones(12, dtype=bool)
    first = patch_stack(adata, adata, rows, patch_um=SIDE, patch_px=SIDE)[np.arange(12)]
    files = sorted((tmp_path / "patches").iterdir())
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    patch_stack(adata, adata, rows, patch_um=SIDE, patch_px=SIDE)
    assert [file.stat().st_mtime_ns for file in files] == times
    files[0].write_bytes(files[0].read_bytes()[:100])
    again = patch_stack(adata, adata, rows, patch_um=SIDE, patch_px=SIDE)[np.arange(12)]
    np.testing.assert_array_equal(again, first)
    assert sorted((tmp_path / "patches").iterdir()) == files  # no temporary files are left


def test_patches_are_resampled_to_the_size_asked_for(adata):
    rows = np.arange(12) == 3
    large = patch_stack(adata, adata, rows, patch_um=SIDE, patch_px=SIDE)[np.array([0])]
    small = patch_stack(adata, adata, rows, patch_um=SIDE, patch_px=SIDE // 2)[np.array([0])]
    assert small.shape == (1, SIDE // 2, SIDE // 2, 3)
    assert small.dtype == np.uint8
    assert abs(small.mean() - large.mean()) < 15


def test_positions_outside_the_picture_are_refused(adata):
    adata.obsm["spatial"][4] = 500
    with pytest.raises(ValueError, match="inside the image"):
        patch_stack(adata, adata, np.ones(12, dtype=bool), patch_um=SIDE, patch_px=SIDE)
