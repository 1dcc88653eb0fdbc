from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

import stpredict as stp
from stpredict.io._image import section_image
from stpredict.io._lattice import pitch_px
from stpredict.io._visium_positions import X_PX, Y_PX, read_positions

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
HER2ST, MOUSE, GBM = DATA / "her2st", DATA / "visium_mouse", DATA / "gbm_visium"

needs_her2st = pytest.mark.skipif(not HER2ST.exists(), reason="the her2st data are not beside the repository")
needs_mouse = pytest.mark.skipif(not MOUSE.exists(), reason="the mouse Visium data are not beside the repository")
needs_gbm = pytest.mark.skipif(not GBM.exists(), reason="the glioblastoma Visium data are not beside the repository")


@needs_her2st
def test_her2st_sections_with_images(tmp_path):
    adata = stp.io.read_her2st(HER2ST, ["B4", "C2", "C3"])
    assert adata.obs["sample"].value_counts().to_dict() == {"B4": 283, "C2": 187, "C3": 180}
    totals = np.asarray(adata.layers["counts"].sum(axis=1)).ravel()
    assert np.median(totals[adata.obs["sample"] == "B4"]) == 648
    assert np.median(totals[adata.obs["sample"] == "C3"]) == 9549
    for name in ("B4", "C2", "C3"):
        entry = adata.uns["spatial"][name]
        assert entry["scalefactors"]["microns_per_pixel"] == pytest.approx(0.6875, abs=0.002)
        assert max(entry["images"]["hires"].shape) == 1500
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert (back.X != adata.X).nnz == 0
    assert back.uns["spatial"]["C2"]["scalefactors"] == adata.uns["spatial"]["C2"]["scalefactors"]


@needs_her2st
def test_her2st_spots_lie_on_tissue():
    adata = stp.io.read_her2st(HER2ST, "C2")
    xy = adata.obsm["spatial"]
    image = section_image(adata, adata, "C2")
    gray = {}
    for name, centers in (("right", xy), ("swapped", xy[:, ::-1])):
        gray[name] = np.mean([windows.mean() for _, windows in image.windows(centers, 20)])
    assert 125 < gray["right"] < 160
    assert gray["swapped"] > gray["right"] + 10


@needs_her2st
def test_her2st_labels_without_images():
    adata = stp.io.read_her2st(HER2ST, ["B1", "C1", "G2"])
    assert adata.obs["label"].notna().all()
    assert adata.obs["sample"].value_counts().to_dict() == {"G2": 467, "B1": 295, "C1": 176}
    # one of the 128 labeled spots has no counts
    assert adata.obs.loc[adata.obs["sample"] == "C1", "label"].value_counts()["invasive cancer"] == 127
    assert adata.uns["spatial"]["B1"]["images"] == {}


@needs_mouse
def test_visium_with_only_a_lowres_image():
    adata = stp.io.read_visium(MOUSE, "M", "mouse")
    assert adata.shape == (2898, 19465)
    assert adata.obs["in_tissue"].eq(1).all()
    assert list(adata.uns["spatial"]["M"]["images"]) == ["lowres"]
    # 21.4 px between neighbors that are 100 µm apart
    assert adata.uns["spatial"]["M"]["scalefactors"]["microns_per_pixel"] == pytest.approx(4.67, abs=0.01)


@needs_gbm
def test_positions_without_a_header():
    table = read_positions(GBM)
    xy = table[[X_PX, Y_PX]].to_numpy(dtype=float)
    assert len(table) == 4992
    pitch = pitch_px(table["array_row"].to_numpy(), table["array_col"].to_numpy(), xy, "hexagonal")
    assert 100 / pitch == pytest.approx(1.16, abs=0.005)
    assert tuple(xy[0]) == (1375, 721)


@pytest.mark.skipif(not (DATA / "st_mob").exists(), reason="the mouse olfactory bulb is not in ../shared/data")
def test_olfactory_bulb_in_pixels_that_are_not_square():
    """Four sections on a checkerboard; spots lie on the dark tissue only where the image is stretched as they are."""
    from scipy.spatial import KDTree

    with pytest.warns(UserWarning, match="spots of MOB1.tsv.gz have no line in MOB1_spots.tsv.gz"):
        adata = stp.io.read_st(DATA / "st_mob", patient="one")
    assert adata.obs["sample"].value_counts().sort_index().tolist() == [379, 407, 438, 403]
    assert adata.var["gene_ids"]["Malat1"].startswith("ENSMUSG")
    for name in adata.obs["sample"].unique():
        rows = (adata.obs["sample"] == name).to_numpy()
        factors = adata.uns["spatial"][name]["scalefactors"]
        assert factors["source_microns_per_pixel_x"] == pytest.approx(4.63, abs=0.02)
        assert factors["microns_per_pixel"] == factors["source_microns_per_pixel_y"] == pytest.approx(4.16, abs=0.02)
        um = adata.obsm["spatial"][rows] * factors["microns_per_pixel"]
        near = KDTree(um).query(um, k=5)[0][:, 1:]
        assert np.median(near) == pytest.approx(141.4, abs=1)
        # Depth follows the darkness of the tissue, and less so where positions are taken for those of the file.
        depth = np.log1p(np.asarray(adata.layers["counts"][rows].sum(axis=1)).ravel())
        picture, gray = section_image(adata, adata, name), {}
        assert picture.height == 1905
        assert picture.width == pytest.approx(1905 * 4.62 / 4.16, abs=6)
        for what, scale in (("stretched", 1.0), ("as in the file", factors["microns_per_pixel"] / 4.62)):
            centers = adata.obsm["spatial"][rows] * [scale, 1.0]
            found = np.empty(rows.sum())
            for index, windows in picture.windows(centers, 20):
                found[index] = windows.mean(axis=(1, 2, 3))
            gray[what] = np.corrcoef(found, depth)[0, 1]
        assert gray["stretched"] < -0.3
        assert gray["stretched"] < gray["as in the file"] - 0.1
