"""Patches of pixels for end-to-end networks."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

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


def everything(adata: ad.AnnData, side: int = SIDE, **options) -> np.ndarray:
    rows = np.ones(adata.n_obs, dtype=bool)
    return patch_stack(adata, adata, rows, patch_um=side, patch_px=side, **options)[np.arange(adata.n_obs)]


def files(folder) -> list:
    return sorted((folder / "patches").iterdir()) if (folder / "patches").exists() else []


def test_positions_outside_the_picture_are_refused(adata, tmp_path):
    adata.obsm["spatial"][5] = 500  # of the second section: the first is not cut either
    with pytest.raises(ValueError, match="inside the image"):
        everything(adata)
    assert not files(tmp_path)


def test_the_border_is_reflected_and_counted(adata):
    adata.obsm["spatial"][0] = (1, 30)
    adata.obsm["spatial"][2] = (59, 59)
    adata.obsm["spatial"][4] = (SIDE / 2, 30)  # just inside
    with pytest.warns(UserWarning, match=r"2 of 6 patches of section 'a' reach beyond"):
        stack = patch_stack(adata, adata, np.ones(12, dtype=bool), patch_um=SIDE, patch_px=SIDE)
    assert stack.padded == {"a": 2, "b": 0}
    picture = np.pad(adata.uns["spatial"]["a"]["images"]["hires"], ((9, 9), (9, 9), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(stack[np.array([0])][0], picture[35:43, 6:14])
    np.testing.assert_array_equal(stack[np.array([2])][0], picture[64:72, 64:72])
    # Counted among the observations that are used.
    rows = ~np.isin(np.arange(12), [0, 2])
    assert patch_stack(adata, adata, rows, patch_um=SIDE, patch_px=SIDE).padded == {"a": 0, "b": 0}


@pytest.mark.filterwarnings("ignore:.*reach beyond")
def test_a_patch_larger_than_the_picture_is_refused(adata):
    everything(adata, side=60)
    with pytest.raises(ValueError, match="smaller than the image of section 'a'"):
        everything(adata, side=61)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interrupted_cut_leaves_nothing(adata, tmp_path, monkeypatch, stop):
    from stpredict.encoders import _resize

    plain, calls = _resize.resized, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise stop
        return plain(*args)

    monkeypatch.setattr(_resize, "resized", interrupted)
    with pytest.raises(stop):
        everything(adata)
    assert len(files(tmp_path)) == 1  # the section that was finished
    found = everything(adata)
    assert len(files(tmp_path)) == 2
    np.testing.assert_array_equal(found[1], naive(adata, 1))


def test_equal_content_shares_a_file_and_different_content_does_not(adata, tmp_path):
    b = (adata.obs["sample"] == "b").to_numpy()
    adata.obsm["spatial"][b] = adata.obsm["spatial"][~b]
    everything(adata)
    assert len(files(tmp_path)) == 2
    adata.uns["spatial"]["b"]["images"]["hires"] = adata.uns["spatial"]["a"]["images"]["hires"].copy()
    found = everything(adata)
    assert len(files(tmp_path)) == 2
    np.testing.assert_array_equal(found[b], found[~b])
    adata.uns["spatial"]["b"]["images"]["hires"][30, 30] += 1
    adata.obsm["spatial"][0] += 1
    everything(adata)
    everything(adata, side=SIDE - 2)
    assert len(files(tmp_path)) == 6


@pytest.mark.parametrize(
    "damage", [b"", b"no array", np.zeros((6, 4, 4, 3), np.uint8), np.zeros((6, 8, 8, 3), np.int16)]
)
def test_files_of_another_kind_are_replaced(adata, tmp_path, damage):
    first = everything(adata)
    for file in files(tmp_path):
        if isinstance(damage, bytes):
            file.write_bytes(damage)
        else:
            np.save(file, damage)
    np.testing.assert_array_equal(everything(adata), first)
    assert {np.load(file).dtype for file in files(tmp_path)} == {np.dtype(np.uint8)}


def on_full_disk(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)


def with_a_file_in_its_place(monkeypatch, tmp_path):
    (tmp_path / "patches").write_text("mine")


def that_cannot_be_moved(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", fail)


@pytest.mark.parametrize("trouble", [on_full_disk, with_a_file_in_its_place, that_cannot_be_moved])
def test_a_cache_that_cannot_be_written_costs_a_warning(adata, tmp_path, monkeypatch, trouble):
    with monkeypatch.context() as patch:
        trouble(patch, tmp_path)
        with pytest.warns(UserWarning, match="section '[ab]' could not be kept in .*held in memory.*cache_dir"):
            found = everything(adata)
        with pytest.warns(UserWarning, match="could not be kept"):
            assert stp.pp.patches(adata, SIDE, SIDE)["path"].tolist() == ["", ""]
    if trouble is not with_a_file_in_its_place:
        assert not any((tmp_path / "patches").iterdir())
        np.testing.assert_array_equal(everything(adata), found)
        assert len(files(tmp_path)) == 2
    for row in range(12):
        np.testing.assert_array_equal(found[row], naive(adata, row))


@pytest.mark.parametrize("place", [200, -1, -40])
def test_one_changed_byte_is_not_trusted(adata, tmp_path, place):
    first = everything(adata)
    for file in files(tmp_path):
        content = bytearray(file.read_bytes())
        content[place] ^= 1
        file.write_bytes(content)
    np.testing.assert_array_equal(everything(adata), first)


def test_what_killed_processes_left_is_removed_and_what_is_at_work_is_not(adata, tmp_path):
    from stpredict.core._turns import turn

    folder = tmp_path / "patches"
    folder.mkdir()
    dead, alive = folder / ".0a.01234567.new", folder / ".0b.01234567.new"
    for file in (dead, folder / ".0a.stplock"):
        file.write_bytes(b"half")
    with ThreadPoolExecutor(1) as other, turn(folder / "0b"):
        alive.write_bytes(b"half")
        other.submit(everything, adata).result()
        assert alive.exists()
        assert not dead.exists()
    everything(adata)
    assert len(list(folder.iterdir())) == len(files(tmp_path)) == 2


def picture_of(adata, change):
    """The pictures of both sections, changed."""
    return {name: change(adata.uns["spatial"][name]["images"]["hires"]) for name in "ab"}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda p: np.moveaxis(p, -1, 0), ValueError, "channels come first"),
        (lambda p: np.moveaxis(p, -1, 0)[:1], ValueError, "channels come first"),
        (lambda p: p.astype(float), ValueError, "floats in 0–1; found floats from 0 to 25"),
        (lambda p: p.astype(np.int64), TypeError, "int64"),
        (lambda p: np.concatenate([p, p], axis=2), ValueError, "three of its channels"),
        (lambda p: p[None], ValueError, "height, width, 3"),
    ],
)
def test_other_pictures_are_refused(adata, tmp_path, change, error, match):
    with pytest.raises(error, match=match):
        everything(adata, image=picture_of(adata, change))
    assert not [file for file in files(tmp_path) if not file.name.startswith(".")]
    assert not files(tmp_path)


def test_kinds_of_pictures_that_mean_the_same(adata):
    plain = everything(adata)
    floats = picture_of(adata, lambda p: (p / 255).astype(np.float32))
    alpha = picture_of(adata, lambda p: np.concatenate([p, np.full_like(p[..., :1], 255)], axis=2))
    for pictures in (floats, alpha):
        np.testing.assert_array_equal(everything(adata, image=pictures), plain)
    gray = everything(adata, image=picture_of(adata, lambda p: p[..., 0]))
    np.testing.assert_array_equal(gray, np.repeat(plain[..., :1], 3, axis=3))


def test_patches_ahead_of_training(adata, tmp_path):
    before = adata.copy()
    adata.obsm["spatial"][0] = before.obsm["spatial"][0] = (1, 30)
    with pytest.warns(UserWarning, match="1 of 6"):
        table = stp.pp.patches(adata, SIDE, SIDE // 2, progress=False)
    assert table.drop(columns="path").to_dict("list") == {
        "sample": ["a", "b"], "n_patches": [6, 6], "n_padded": [1, 0], "side_px": [SIDE, SIDE],
        "patch_um": [SIDE, SIDE], "patch_px": [SIDE // 2, SIDE // 2],
    }  # fmt: skip
    assert sorted(table["path"]) == [str(file) for file in files(tmp_path)]
    times = [file.stat().st_mtime_ns for file in files(tmp_path)]
    with pytest.warns(UserWarning, match="1 of 6"):
        patch_stack(adata, adata, np.ones(12, dtype=bool), patch_um=SIDE, patch_px=SIDE // 2)
    assert [file.stat().st_mtime_ns for file in files(tmp_path)] == times
    assert list(adata.obs) == list(before.obs)
    assert set(adata.obsm) == set(before.obsm)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"patch_um": 0, "patch_px": 8}, ValueError, "patch_um"),
        ({"patch_um": 8, "patch_px": 0}, ValueError, "patch_px"),
        ({"patch_um": 8, "patch_px": 2.5}, ValueError, "patch_px"),
        ({"patch_um": 8, "patch_px": 8, "sample_key": "slide"}, KeyError, "slide"),
        ({"patch_um": 8, "patch_px": 8, "image": np.zeros((60, 60, 3), np.uint8)}, ValueError, "mapping by section"),
        ({"patch_um": 8, "patch_px": 8, "image": {"a": np.zeros((60, 60, 3), np.uint8)}}, KeyError, "section 'b'"),
    ],
)
def test_errors(adata, options, error, match):
    with pytest.raises(error, match=match):
        stp.pp.patches(adata, options.pop("patch_um"), options.pop("patch_px"), **options)


def test_more_errors(adata):
    with pytest.raises(ValueError, match="at least one observation"):
        stp.pp.patches(adata[:0].copy(), SIDE, SIDE)
    del adata.uns["spatial"]["b"]["scalefactors"]["microns_per_pixel"]
    with pytest.raises(ValueError, match="µm per pixel of section 'b'"):
        stp.pp.patches(adata, SIDE, SIDE)
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="spatial"):
        stp.pp.patches(adata, SIDE, SIDE)


def test_a_fit_records_the_padded_patches(cohort_of_pixels):
    model = stp.tl.fit(cohort_of_pixels, "color", hyperparameters={"patch_px": 8}, training={"max_epochs": 1})
    padded = model.training.padded_patches
    assert padded == dict.fromkeys(cohort_of_pixels.obs["sample"].unique(), 0)
    assert stp.tl.fit(cohort_of_pixels, "mean").training.padded_patches is None


@pytest.fixture
def cohort_of_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path)
    cohort = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=40, n_genes=5)
    stp.pp.normalize(cohort)
    return cohort
