from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._provenance import read_record

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
HER2ST, MOUSE, GBM = DATA / "her2st", DATA / "visium_mouse", DATA / "gbm_visium"
CELL = ["grid_row", "grid_col"]


@pytest.mark.skipif(not HER2ST.exists(), reason="the her2st data are not beside the repository")
def test_her2st_from_array_pixels_and_unrounded_positions():
    adata = stp.io.read_her2st(HER2ST, ["B1", "C1", "G2", "H1"])
    stp.pp.grid(adata)
    record = read_record(adata, "grid")
    assert set(record["lattice"].values()) == {"square"}
    assert record["shape"]["H1"] == [26, 30]
    pixels = adata.copy()
    del pixels.obs["array_row"]
    stp.pp.grid(pixels)
    assert set(read_record(pixels, "grid")["source"].values()) == {"spatial"}
    pd.testing.assert_frame_equal(pixels.obs[CELL], adata.obs[CELL])
    for sample in record["shape"]:
        spots = pd.read_csv(HER2ST / "spots" / f"{sample}_selection.tsv", sep="\t")
        spots = spots.set_index(f"{sample}_" + spots["x"].astype(str) + "x" + spots["y"].astype(str))
        section = adata[adata.obs["sample"] == sample].copy()
        section.obs["array_row"], section.obs["array_col"] = (
            spots.loc[section.obs_names, name] for name in ("new_y", "new_x")
        )
        rounded = section.obs[CELL].copy()
        stp.pp.grid(section)
        pd.testing.assert_frame_equal(section.obs[CELL], rounded)


@pytest.mark.skipif(not MOUSE.exists(), reason="the mouse Visium data are not beside the repository")
def test_visium_mouse():
    adata = stp.io.read_visium(MOUSE)
    stp.pp.grid(adata)
    record = read_record(adata, "grid")
    assert record["lattice"] == {"visium_mouse": "hex"}
    assert record["shape"] == {"visium_mouse": [78, 60]}
    offset = adata.obs["array_col"] // 2 - adata.obs["grid_col"]
    assert offset.nunique() == 1
    assert (adata.obs["array_row"] == adata.obs["grid_row"]).all()
    pixels = adata.copy()
    del pixels.obs["array_row"]
    stp.pp.grid(pixels)
    pd.testing.assert_frame_equal(pixels.obs[CELL], adata.obs[CELL])


@pytest.mark.skipif(not GBM.exists(), reason="the glioblastoma Visium data are not beside the repository")
def test_full_visium_section_has_78_by_64_cells():
    table = pd.read_csv(GBM / "tissue_positions_list.csv", header=None, index_col=0)
    obs = pd.DataFrame({"sample": "243_T", "array_row": table[2], "array_col": table[3]})
    adata = ad.AnnData(np.ones((len(table), 1)), obs=obs, obsm={"spatial": table[[5, 4]].to_numpy(float)})
    stp.pp.grid(adata)
    assert read_record(adata, "grid")["shape"] == {"243_T": [78, 64]}
    assert (adata.obs["grid_row"] == adata.obs["array_row"]).all()
    assert (adata.obs["grid_col"] == adata.obs["array_col"] // 2).all()
    _, mask = stp.get.to_grid(adata, "array_row")
    assert mask.all()
    pixels = adata.copy()
    del pixels.obs["array_row"]
    stp.pp.grid(pixels)
    pd.testing.assert_frame_equal(pixels.obs[CELL], adata.obs[CELL])
