"""Slides, tiles, features and models go both ways between lazyslide and this package."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stpredict as stp
from stpredict.training import FittedModel

SLIDES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "slides"

pytestmark = pytest.mark.skipif(not SLIDES.exists(), reason="needs the shared data")


@pytest.fixture(scope="module")
def zs() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("lazyslide", reason="lazyslide, of the test group, is not installed")


def spots_like(table: Any) -> FittedModel:
    """A ridge on the features of tiles, fitted on values that mean nothing."""
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"sample": "s", "patient": "p"}, index=table.obs_names)
    values = np.asarray(table.X)[:, :6] @ rng.normal(size=(6, 4)) + rng.normal(size=(table.n_obs, 4))
    spots = ad.AnnData(values.astype(np.float32), obs=obs, var=pd.DataFrame(index=["ERBB2", "CD8A", "KRT5", "MS4A1"]))
    spots.obsm["X_color-texture"] = np.asarray(table.X)
    spots.uns["stpredict"] = {"X_color-texture": table.uns["stpredict"]["X_color-texture"]}
    spots.uns["log1p"] = {}
    return stp.tl.fit(spots, "ridge", baselines=False)


def test_lazyslide_predicts_with_a_model_of_ours_and_reads_our_slides(zs: Any) -> None:
    """Our tissue, tiles, features and prediction, then its graph, domains, features of the surroundings and figure."""
    import matplotlib.pyplot as plt

    slide = stp.io.open_slide(SLIDES / "cmu-1-small-region.svs", patient="P1")
    stp.pp.tissue(slide)
    stp.pp.tiles(slide)
    stp.pp.image_features(slide)
    model = spots_like(slide.tables["color-texture_tiles"])
    zs.tl.feature_prediction(slide, model, pbar=False)
    theirs = slide.tables["stpredict-ridge_tiles"]
    assert list(theirs.var_names) == model.panel
    stp.tl.predict(slide, model)
    table = slide.tables["color-texture_tiles"]
    np.testing.assert_allclose(np.asarray(theirs.X), table.obsm["predicted"], atol=1e-6)

    zs.pp.tile_graph(slide)
    zs.tl.spatial_features(slide, "color-texture")
    zs.tl.spatial_domain(slide, "color-texture", resolution=0.5)
    assert slide.shapes["tiles"]["domain"].notna().all()
    zs.tl.feature_aggregation(slide, "color-texture")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zs.pl.tiles(slide, feature_key="stpredict-ridge", color="ERBB2")
    plt.close("all")


def test_tiles_of_lazyslide_get_our_features_prediction_and_maps(zs: Any) -> None:
    import matplotlib.pyplot as plt
    from wsidata import open_wsi

    slide = open_wsi(SLIDES / "cmu-1-small-region.svs")
    zs.pp.find_tissues(slide)
    zs.pp.tile_tissues(slide, 256)
    stp.pp.image_features(slide)
    table = slide.tables["color-texture_tiles"]
    assert table.n_obs == len(slide.shapes["tiles"]) > 10
    model = spots_like(table)
    stp.tl.predict(slide, model)
    zs.tl.feature_prediction(slide, model, "color-texture", pbar=False)
    predicted = stp.get.predicted(slide, table_key="color-texture_tiles")
    np.testing.assert_allclose(np.asarray(slide.tables["stpredict-ridge_tiles"].X), predicted.X, atol=1e-6)
    assert stp.pl.maps(slide, ["ERBB2", "CD8A"]).shape == (2, 1)
    pytest.importorskip("bokeh", reason="bokeh, of the extra viz, is not installed")
    assert "data:image/jpeg;base64," in stp.pl.explore(slide, genes=["ERBB2"]).html
    plt.close("all")
