from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import stpredict as stp

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "her2st"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="her2st is not at ../shared/data")


def test_maps_of_a_real_section():
    mpl.use("Agg")
    adata = stp.io.read_her2st(FOLDER, sections=["B4"])
    stp.pp.normalize(adata)
    adata = adata[:, ["ERBB2", "GNAS"]].copy()
    adata.obsm["predicted"] = adata.to_df() * 0.5
    adata.obs["predicted_leaky"] = False
    axes = stp.pl.genes(adata, ["ERBB2", "GNAS"])
    assert axes.shape == (2, 4)
    assert axes[0, 2].get_title() == "predicted, r = 1.00"
    picture = axes[0, 0].images[0].get_array()
    assert picture.std() > 10
    assert max(picture.shape) <= 1200
    circles = axes[0, 1].collections[0]
    np.testing.assert_allclose(circles.get_offsets(), adata.obsm["spatial"])
    plt.close("all")
