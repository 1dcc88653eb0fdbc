from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import stpredict as stp


@pytest.fixture(scope="module")
def adata() -> AnnData:
    image, _ = stp.datasets.synthetic_nuclei(200, seed=80)
    middle = np.array([[image.shape[1] / 2, image.shape[0] / 2]])
    adata = AnnData(np.zeros((1, 1)), obs=pd.DataFrame({"sample": ["s"]}, index=["a"]), obsm={"spatial": middle})
    adata.uns["spatial"] = {
        "s": {
            "images": {"hires": image},
            "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": 0.5},
            "metadata": {},
        }
    }
    stp.pp.nuclei(adata, progress=False)
    return adata


def test_outlines_lie_in_the_region(adata):
    frame = stp.get.nuclei(adata)
    center = frame[["x", "y"]].iloc[len(frame) // 2].to_numpy()
    ax = stp.pl.nuclei(adata, center=center, side_um=60)
    assert ax.get_xlim() == pytest.approx((center[0] - 60, center[0] + 60), abs=0.6)
    assert ax.get_ylim() == pytest.approx((center[1] + 60, center[1] - 60), abs=0.6)
    (lines,) = ax.collections
    near = (np.abs(frame[["x", "y"]].to_numpy() - center) < 60).all(axis=1)
    assert near.sum() <= len(lines.get_paths()) < len(frame)
    assert ax.images[0].get_array().shape[:2] == (120, 120)
    plt.close("all")


def test_colors_by_numbers_and_by_classes(adata):
    ax = stp.pl.nuclei(adata, color="area_um2")
    assert len(ax.figure.axes) == 2
    assert len(np.unique(ax.collections[0].get_edgecolor(), axis=0)) > 3
    typed = adata.copy()
    frame = stp.get.nuclei(adata)
    typed.uns["nuclei"]["s"]["type"] = np.where(frame["area_um2"] > 40, "large", "small")
    ax = stp.pl.nuclei(typed, color="type", side_um=400)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["large", "small"]
    plt.close("all")


def test_what_cannot_be_shown_is_refused(adata):
    with pytest.raises(KeyError, match="expected a column of the nuclei in `color`; found 'size'"):
        stp.pl.nuclei(adata, color="size")
    with pytest.raises(ValueError, match="expected center as x and y on the picture"):
        stp.pl.nuclei(adata, center=(-50, 10))
    with pytest.raises(KeyError, match="expected nuclei of section"):
        stp.pl.nuclei(adata, key="cells")
