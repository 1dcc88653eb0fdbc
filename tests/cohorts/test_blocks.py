from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stpredict as stp
from stpredict.cohorts import spatial_blocks


def sections(*sizes: int, seed: int = 0, tissue: float = 1.0) -> ad.AnnData:
    """Sections of one patient with spots at random within 2 × 1 mm, 2 µm per pixel; a share of them on tissue."""
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    sample = np.repeat([f"s{i}" for i in range(len(sizes))], sizes)
    obs = pd.DataFrame({"sample": sample, "patient": "p"}, index=[f"o{i}" for i in range(n)])
    obs["in_tissue"] = rng.random(n) < tissue
    adata = ad.AnnData(obs=obs)
    adata.obsm["spatial"] = rng.random((n, 2)) * [1000, 500]
    adata.uns["spatial"] = {name: {"scalefactors": {"microns_per_pixel": 2.0}} for name in np.unique(sample)}
    return adata


@settings(max_examples=30, deadline=None)
@given(st.integers(40, 90), st.integers(2, 6), st.floats(0, 150), st.integers(0, 9), st.sampled_from([1.0, 0.7]))
def test_blocks_are_balanced_and_apart(n: int, n_blocks: int, buffer: float, seed: int, tissue: float) -> None:
    adata = sections(n, 60, seed=seed, tissue=tissue)
    folds = spatial_blocks(adata, n_blocks, buffer)
    assert len(folds) == 2 * n_blocks
    assert all(fold.within and not fold.leaky for fold in folds)
    assert (np.sum([fold.test for fold in folds], axis=0) == 1).all()
    sample, xy = adata.obs["sample"].to_numpy(), adata.obsm["spatial"] * 2.0
    for fold in folds:
        assert len(set(sample[fold.test | fold.train])) == 1  # other sections take no part
        gap = np.abs(xy[fold.train][:, None] - xy[fold.test][None]).max(axis=2).min(axis=1)
        assert (gap >= buffer).all()
        rest = (sample == sample[fold.test][0]) & ~fold.train & ~fold.test
        near = np.abs(xy[rest][:, None] - xy[fold.test][None]).max(axis=2).min(axis=1)
        assert (near < buffer).all()  # no more is left out than must be
    for name in ("s0", "s1"):
        sizes = [int((fold.test & adata.obs["in_tissue"]).sum()) for fold in folds if fold.name.startswith(name)]
        assert max(sizes) - min(sizes) <= 2 if n_blocks > 3 else max(sizes) - min(sizes) <= 1


def test_a_block_is_one_piece() -> None:
    """The spots of a block fill the rectangle that they span: no spot of another block lies in it."""
    adata = sections(200)
    xy = adata.obsm["spatial"]
    for fold in spatial_blocks(adata, 5, 0):
        low, high = xy[fold.test].min(axis=0), xy[fold.test].max(axis=0)
        assert not ((xy[~fold.test] > low) & (xy[~fold.test] < high)).all(axis=1).any()


def test_order_of_rows_does_not_matter() -> None:
    adata = sections(50, 40)
    order = np.random.default_rng(1).permutation(adata.n_obs)
    for one, other in zip(spatial_blocks(adata, 3, 60), spatial_blocks(adata[order], 3, 60), strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.test[order], other.test)
        np.testing.assert_array_equal(one.train[order], other.train)


def test_buffer_covers_the_widest_recorded_features() -> None:
    adata = sections(200)
    record = {"encoder": "toy", "tile_um": 100.0}
    adata.obsm["X_toy"] = adata.obsm["X_wide"] = np.zeros((200, 2), dtype=np.float32)
    adata.uns["stpredict"] = {"X_toy": record, "X_wide": record | {"context": [1.0, 3.0]}}
    for one, other in zip(spatial_blocks(adata), spatial_blocks(adata, 4, 330.0), strict=True):
        np.testing.assert_array_equal(one.train, other.train)
    adata.uns["stpredict"]["X_wide"] = {"encoder": "toy"}
    with pytest.raises(ValueError, match=r"no size of the tiles behind X_wide; pass .*buffer_um"):
        spatial_blocks(adata)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no image features that have a record; pass .*buffer_um"),
        ({"n_blocks": 1, "buffer_um": 10}, "at least 2; found 1"),
        ({"n_blocks": 2.5, "buffer_um": 10}, "whole number"),
        ({"buffer_um": -1}, "buffer_um to be a number of at least 0"),
        ({"buffer_um": np.nan}, "buffer_um to be a number of at least 0"),
        ({"n_blocks": 20, "buffer_um": 10}, "at least 60 observations on tissue in section 's0'.*found 50; take fewer"),
        ({"buffer_um": 5000.0}, "further than 5000 µm from block 1.*found 0 of 50"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spatial_blocks(sections(50), **options)


def test_needs_micrometers() -> None:
    adata = sections(50)
    adata.uns["spatial"]["s0"]["scalefactors"] = {}
    with pytest.raises(ValueError, match="µm per pixel of section 's0'"):
        spatial_blocks(adata, 4, 100)
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="positions of the observations"):
        spatial_blocks(adata, 4, 100)


def test_a_single_patient_is_told_of_blocks() -> None:
    with pytest.raises(ValueError, match=r"splitter='blocks' \(stp.cohorts.spatial_blocks\).*within section"):
        stp.cohorts.leave_one_patient_out(sections(20, 20))
