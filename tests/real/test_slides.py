from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.io._image import SectionImage
from stpredict.pp._tissue import tissue_mask
from stpredict.slots._prediction import prediction_frame
from stpredict.training import FittedModel

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SLIDES, HER2ST = DATA / "slides", DATA / "her2st"
CMU, TCGA, KIDNEY = "cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs", "kidney-48-5.tif"

pytestmark = pytest.mark.skipif(not SLIDES.exists(), reason="needs the shared data")
pytest.importorskip("wsidata")


def model_of(tiles: ad.AnnData) -> FittedModel:
    """A network on bags of the tiles of a slide, trained on expression that means nothing."""
    parts = tiles.copy()
    parts.obs["sample"] = [f"s{i % 5}" for i in range(tiles.n_obs)]
    names = sorted(parts.obs["sample"].unique())
    expression = pd.DataFrame(np.random.default_rng(0).exponential(9, (5, 7)), names, [f"g{i}" for i in range(7)])
    bags = stp.pp.bag(parts, expression=expression, patient={name: name for name in names}, n_tokens=6)
    stp.pp.normalize(bags, unit="fpkm-uq")
    small = {"depth": 1, "heads": 2, "d_head": 8}
    return stp.tl.fit(bags, "sequoia", hyperparameters=small, training={"max_epochs": 3}, baselines=False)


# The kidney is a picture at low resolution with one small piece of tissue.
@pytest.mark.parametrize(
    ("name", "mpp", "reader", "area_mm2", "n_tiles", "options"),
    [
        (CMU, None, "openslide", 0.66, 30, {}),
        (TCGA, 0.5, "openslide", 2.54, 143, {}),
        (TCGA, 0.25, "openslide", 0.63, 36, {}),
        (KIDNEY, 8.0, "tiffslide", 0.27, 16, {"max_background": 0.5, "tile_px": 16}),
    ],
)
def test_real_slides_up_to_a_drawn_map(
    tmp_path: Path,
    name: str,
    mpp: float | None,
    reader: str,
    area_mm2: float,
    n_tiles: int,
    options: dict[str, Any],
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import spatialdata as sd

    slide = stp.io.open_slide(SLIDES / name, mpp)
    assert slide.reader.name == reader
    mpp = slide.attrs["slide_properties"]["mpp"]
    stp.pp.tissue(slide)
    assert slide.shapes["tissues"].area.sum() * mpp**2 / 1e6 == pytest.approx(area_mm2, rel=0.1)
    stp.pp.tiles(slide, **options)
    assert len(slide.shapes["tiles"]) == pytest.approx(n_tiles, rel=0.15)
    stp.pp.image_features(slide)
    table = slide.tables["color-texture_tiles"]
    assert table.shape == (len(slide.shapes["tiles"]), 153)
    assert np.isfinite(table.X).all()
    stp.tl.predict(slide, model_of(table), window=3)
    table = slide.tables["color-texture_tiles"]
    assert table.obsm["predicted"].shape == (table.n_obs, 7)
    assert np.isfinite(table.obsm["predicted"]).all()
    assert (prediction_frame(table, "predicted").std() > 0).all()
    assert table.obs["predicted_n_windows"].between(1, 9).all()
    slide.write(tmp_path / "slide.zarr")
    again = sd.read_zarr(tmp_path / "slide.zarr")
    ax = stp.pl.slide(again, color="g0")
    ax.figure.canvas.draw()
    axes = stp.pl.maps(again, ["g0", "g1"])
    assert axes.shape == (2, 1)
    axes[0, 0].figure.canvas.draw()
    plt.close("all")


@pytest.mark.parametrize("name", [TCGA, KIDNEY])
def test_slides_without_scale_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="µm per pixel"):
        stp.io.open_slide(SLIDES / name)


@pytest.mark.parametrize("name", [CMU, TCGA, KIDNEY])
@pytest.mark.parametrize("share", [0.9995, 0.9, 0.7, 0.3])
def test_truncated_slides_are_refused(tmp_path: Path, name: str, share: float) -> None:
    content = (SLIDES / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"truncated|cannot be opened"):
        stp.io.open_slide(tmp_path / name, 0.5)


@pytest.mark.parametrize("section", ["B4", "C2", "C3", "C4", "C5"])
def test_spots_lie_on_the_tissue_that_is_found(section: str) -> None:
    mpp = 0.686
    image = SectionImage(HER2ST / "images" / f"{section}.jpg")
    picture, factor = image.thumbnail(round(max(image.width, image.height) * mpp / 8))
    mask = tissue_mask(picture, mpp / factor, min_area_um2=50_000, min_hole_um2=20_000)
    spots = pd.read_csv(HER2ST / "spots" / f"{section}_selection.tsv", sep="\t").query("selected == 1")
    at = (spots[["pixel_y", "pixel_x"]].to_numpy() * factor).astype(int)
    assert mask[at[:, 0], at[:, 1]].mean() > 0.95
    area, covered = mask.sum() * (mpp / factor) ** 2, len(spots) * 200**2
    assert 0.9 < area / covered < 1.1
