"""A map of a measured section, predicted by a network on bags from its picture alone, against its spots."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

HER2ST = Path(__file__).parents[3] / "shared" / "data" / "her2st"
pytestmark = pytest.mark.skipif(not (HER2ST / "images").exists(), reason="needs ../shared/data/her2st")
pytest.importorskip("wsidata")

MPP, TILE_UM, N_GENES = 0.686, 200.0, 40


@pytest.fixture(scope="module")
def spots() -> ad.AnnData:
    return stp.io.read_her2st(HER2ST, ["C2", "C3", "C4"], microns_per_pixel=MPP)


@pytest.fixture(scope="module")
def model(spots: ad.AnnData):
    """Trained on regions of two neighboring sections of the same patient, each with the sum of its spots."""
    train = spots[spots.obs["sample"] != "C2"].copy()
    stp.pp.image_features(train, tile_um=TILE_UM, context=(1,))
    place = train.obs[["array_row", "array_col"]].floordiv(4).astype(str)
    train.obs["sample"] = train.obs["sample"].astype(str) + "_" + place["array_row"] + "_" + place["array_col"]
    size = train.obs.groupby("sample")["sample"].transform("size")
    train = train[(size >= 8).to_numpy()].copy()
    counts = pd.DataFrame(train.layers["counts"].toarray(), train.obs["sample"], train.var_names)
    regions = ad.AnnData(counts.groupby(level=0).sum())
    bags = stp.pp.bag(train, expression=regions, n_tokens=16, shared=False)  # each region was measured by itself
    stp.pp.normalize(bags)
    small = {"depth": 1, "heads": 4, "d_head": 16}
    most = regions.var_names[np.argsort(-regions.X.sum(axis=0))[:N_GENES]]
    return stp.tl.fit(
        bags, "sequoia", target=list(most), hyperparameters=small, training={"max_epochs": 40, "patience": 0},
        baselines=False,
    )  # fmt: skip


def test_map_of_a_neighboring_section_resembles_its_spots(tmp_path: Path, spots: ad.AnnData, model) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from stpredict.datasets._pyramid import write_pyramid
    from stpredict.io._image import SectionImage

    path = tmp_path / "C2.tif"
    image = SectionImage(HER2ST / "images" / "C2.jpg")
    write_pyramid(path, image.band(0, image.height), MPP)
    slide = stp.io.open_slide(path, patient="C")
    assert slide.attrs["slide_properties"]["mpp"] == pytest.approx(MPP)
    stp.pp.tissue(slide)
    stp.pp.tiles(slide, tile_um=TILE_UM, max_background=0.5, max_tiles=None)
    stp.pp.image_features(slide)
    stp.tl.predict(slide, model, window=4)
    tiles = slide.tables["color-texture_tiles"]
    assert tiles.obs["predicted_leaky"].all()  # the same patient

    measured = spots[spots.obs["sample"] == "C2"].copy()
    scores = stp.tl.compare_to_st(slide, measured)
    assert len(scores) == N_GENES
    assert scores["n_left_out"].max() == 0
    assert tiles.n_obs == pytest.approx(measured.n_obs, rel=0.1)  # a spot stands for a square of 200 µm
    r = scores["pearson"].mean()
    # Serial sections of one patient, smoothed truth: more than nothing, and less than the spots themselves would give.
    assert 0.2 < r < 0.6
    assert scores["pearson"].max() > 0.6

    width, height = image.width, image.height
    wrong = {
        "transposed": [[0, width / height, 0], [height / width, 0, 0]],
        "left and right": [[-1, 0, width], [0, 1, 0]],
        "up and down": [[1, 0, 0], [0, -1, height]],
        "half turn": [[-1, 0, width], [0, -1, height]],
    }
    for name, affine in wrong.items():
        options = {"spots_to_tiles": affine, "method": "sliced", "key_added": None}
        turned = stp.tl.compare_to_st(slide, measured, **options)["pearson"].mean()
        assert turned < r - 0.1, name

    best = scores.sort_values("pearson", ascending=False)["gene"].tolist()[:2]
    axes = stp.pl.maps(slide, best)
    assert axes.shape == (2, 2)
    assert "leaky" in axes[0, 1].get_title()
    axes[0, 0].figure.canvas.draw()
