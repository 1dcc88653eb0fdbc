from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._prediction import prediction_frame

GENES = ["G0", "G1", "G2", "G3"]


@pytest.fixture(scope="module")
def tiles() -> ad.AnnData:
    """Four slides of 3 x 4 tiles each, with a picture and a predicted map."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:3, :4].reshape(2, -1)
    obs = pd.DataFrame(
        {"sample": np.repeat(list("abcd"), 12), "array_row": np.tile(row, 4), "array_col": np.tile(col, 4)}
    )
    obs["patient"] = obs["sample"]
    adata = ad.AnnData(obs=obs.rename(index=str), obsm={"X_toy": rng.normal(size=(48, 5)).astype(np.float32)})
    adata.obsm["spatial"] = np.column_stack([adata.obs["array_col"], adata.obs["array_row"]]) * 64.0
    adata.uns["spatial"] = {"a": {"images": {"hires": np.zeros((5, 4, 3), np.uint8)}, "scalefactors": {}}}
    bulk = pd.DataFrame(rng.uniform(0, 900, (4, 4)), index=list("abcd"), columns=GENES)
    bags = stp.pp.bag(adata, "toy", expression=bulk, n_tokens=4, progress=False)
    stp.pp.normalize(bags, unit="fpkm-uq")
    options = {"training": {"max_epochs": 1}, "baselines": False}
    model = stp.tl.fit(bags, "sequoia", hyperparameters={"depth": 1, "heads": 1, "d_head": 4}, **options)
    stp.tl.predict(adata, model, window=2, progress=False)
    adata.uns["model"] = bags.uns["stpredict"]["model"]["path"]
    return adata


@pytest.fixture(scope="module")
def store(tiles: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "map.zarr"
    stp.tl.predict(tiles, tiles.uns["model"], window=2, store=path, progress=False)
    return path


def test_all_genes_are_the_map_in_memory(tiles: ad.AnnData, store: Path) -> None:
    found = stp.io.read_map(str(store))
    pd.testing.assert_frame_equal(prediction_frame(found, "predicted"), prediction_frame(tiles, "predicted"))
    np.testing.assert_array_equal(found.obsm["spatial"], tiles.obsm["spatial"])
    np.testing.assert_array_equal(found.obs["predicted_n_windows"], tiles.obs["predicted_n_windows"])
    assert found.uns["spatial"]["a"]["images"]["hires"].shape == (5, 4, 3)
    assert found.obs["sample"].tolist() == tiles.obs["sample"].tolist()


def test_some_genes_come_in_the_order_asked_for(tiles: ad.AnnData, store: Path) -> None:
    found = stp.io.read_map(store, ["G3", "G0"], key="map")
    pd.testing.assert_frame_equal(prediction_frame(found, "map"), prediction_frame(tiles, "predicted")[["G3", "G0"]])


def test_errors(store: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"found 1 others \(first: 'Q'\)"):
        stp.io.read_map(store, ["G0", "Q"])
    with pytest.raises(FileNotFoundError, match="found nothing"):
        stp.io.read_map(tmp_path / "none.zarr")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="something else"):
        stp.io.read_map(tmp_path / "other")
