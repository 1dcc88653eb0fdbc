"""Tiles and bulk expression of four real patients: that the path from files to a training object works, no more."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record

DATA = Path(__file__).parents[3] / "shared" / "data" / "brca_tiles"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="brca_tiles is not in ../shared/data")

# Neither the files nor the source say µm/px. Most nuclei are 25 to 45 px wide: 6 to 11 µm at 0.25 µm/px, and an
# implausible 12 to 22 µm at 0.5. The positions are multiples of the tile's 224 px, so that tiles are full resolution.
MICRONS_PER_PIXEL = 0.25
PATIENTS = ["TCGA-A2-A04R", "TCGA-A2-A04Y", "TCGA-A2-A0YG", "TCGA-E2-A15K"]


@pytest.fixture(scope="module")
def _tiles() -> ad.AnnData:
    return stp.io.from_tiles(DATA, microns_per_pixel=MICRONS_PER_PIXEL, patient=lambda name: name[:12])


@pytest.fixture
def tiles(_tiles: ad.AnnData) -> ad.AnnData:
    return _tiles.copy()


@pytest.fixture(scope="module")
def expression() -> pd.DataFrame:
    return pd.read_csv(DATA / "pam50_gene_expression.csv", index_col="PATIENT_ID")


def test_tiles_on_their_lattice(tiles: ad.AnnData) -> None:
    assert tiles.n_obs == 25
    assert tiles.obs["sample"].value_counts().sort_index().tolist() == [6, 6, 7, 6]
    assert (tiles.obs["array_col"] == 0).all()  # one column of neighboring tiles of each slide
    for _, group in tiles.obs.groupby("sample", observed=True):
        assert sorted(group["array_row"]) == list(range(len(group)))
    features = tiles.obsm["X_color-texture"]
    assert features.shape == (25, 153)
    assert read_record(tiles, "X_color-texture")["tile_um"] == 56.0
    assert len(np.unique(features, axis=0)) == 25
    # Tiles resemble their own slide more than the others.
    scaled = (features - features.mean(axis=0)) / np.where(features.std(axis=0) > 0, features.std(axis=0), 1)
    distance = np.linalg.norm(scaled[:, None] - scaled, axis=2)
    same = tiles.obs["sample"].to_numpy()[:, None] == tiles.obs["sample"].to_numpy()
    assert distance[same & ~np.eye(25, dtype=bool)].mean() < 0.8 * distance[~same].mean()


def test_bags_with_expression_by_patient(tiles: ad.AnnData, expression: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"unknown patients .*1089 in all.*join='left'"):
        stp.pp.bag(tiles, expression=expression, by="patient")
    adata = stp.pp.bag(tiles, expression=expression, by="patient", join="left", n_tokens=4)
    assert adata.obs_names.tolist() == PATIENTS
    assert adata.obs["measured"].all()
    np.testing.assert_allclose(adata.to_df(), expression.loc[PATIENTS], rtol=1e-6)
    assert adata.obsm["X_color-texture_bag_size"].sum(axis=1).tolist() == [6, 6, 7, 6]

    stp.pp.normalize(adata, unit="fpkm-uq")
    np.testing.assert_allclose(adata.X, np.log2(expression.loc[PATIENTS] + 1), rtol=1e-6)
    erbb2 = adata.to_df()["ERBB2"]  # one patient expresses it some 15 times more than the others
    assert erbb2.idxmax() == "TCGA-A2-A0YG"
    assert erbb2.max() - erbb2.drop("TCGA-A2-A0YG").max() > 3
    full = stp.pp.bag(tiles, expression=expression.loc[PATIENTS], by="patient")
    assert full.obsm["X_color-texture_bag"].shape == (4, 100, 153)
    assert (full.obsm["X_color-texture_bag_size"].sum(axis=1) == (full.obsm["X_color-texture_bag_size"] > 0).sum(axis=1)).all()  # fmt: skip


def test_bags_are_the_same_in_every_run_and_order(tiles: ad.AnnData) -> None:
    once = stp.pp.bag(tiles, n_tokens=4).obsm["X_color-texture_bag"]
    np.testing.assert_array_equal(stp.pp.bag(tiles, n_tokens=4, n_jobs=2).obsm["X_color-texture_bag"], once)
    shuffled = tiles[np.random.default_rng(0).permutation(25)].copy()
    np.testing.assert_array_equal(stp.pp.bag(shuffled, n_tokens=4).obsm["X_color-texture_bag"], once)


# Four patients cannot show that a prediction is any good.
@pytest.mark.parametrize(
    ("model", "small"),
    [
        ("sequoia", {"depth": 1, "heads": 2, "d_head": 8}),
        ("he2rna", {"hidden": 16, "top_k": (1, 2, 4)}),
        ("slide_transformer", {"depth": 1, "heads": 2, "d_head": 8, "d_hidden": 16}),
        ("hist2rna", {"hidden": (16, 16)}),
        ("deeppt", {"code": 8, "hidden": 16, "gene_groups": 2}),
    ],
)
def test_networks_train_on_the_bags_and_come_back_from_disk(
    tmp_path: Path, tiles: ad.AnnData, expression: pd.DataFrame, model: str, small: dict
) -> None:
    adata = stp.pp.bag(tiles, expression=expression, by="patient", join="left", n_tokens=4)
    stp.pp.normalize(adata, unit="fpkm-uq")
    train = adata.obs["patient"] != PATIENTS[-1]
    fitted = stp.tl.fit(
        adata, model, train.to_numpy(), hyperparameters=small, training={"max_epochs": 3},
        baselines=("mean", "ridge", "untrained", "permuted"), path=tmp_path / "model",
    )  # fmt: skip
    assert len(fitted.history) == 3 * len(fitted.network.stages)
    assert np.isfinite(fitted.history["train_loss"]).all()
    stp.tl.predict(adata, fitted)
    names = ["predicted", *(f"predicted_baseline_{name}" for name in ("mean", "ridge", "untrained", "permuted"))]
    for name in names:
        assert adata.obsm[name].shape == (4, expression.shape[1])
        assert np.isfinite(adata.obsm[name]).all()
    assert adata.obs["predicted_leaky"].tolist() == [True, True, True, False]

    again = adata.copy()
    stp.tl.predict(again, tmp_path / "model")
    for name in names:
        pd.testing.assert_frame_equal(prediction_frame(again, name), prediction_frame(adata, name))
    # Six tiles in a column: every window is a partial one.
    extrapolated = pytest.warns(UserWarning, match="extrapolated") if model == "hist2rna" else nullcontext()
    with extrapolated:
        stp.tl.predict(tiles, fitted, window=3)
    assert np.isfinite(tiles.obsm["predicted"]).all()
    assert tiles.obs["predicted_leaky"].eq(tiles.obs["sample"].astype(str).str[:12] != PATIENTS[-1]).all()


def test_the_map_of_real_tiles_averages_to_their_slide(tiles: ad.AnnData, expression: pd.DataFrame) -> None:
    adata = stp.pp.bag(tiles, expression=expression, by="patient", join="left")  # every tile is a token
    stp.pp.normalize(adata, unit="fpkm-uq")
    training = {"max_epochs": 30, "patience": 0, "learning_rate": 1e-2}
    model = stp.tl.fit(
        adata, "deeppt", features="color-texture", hyperparameters={"code": 8, "hidden": 16}, training=training,
        baselines=False,
    )  # fmt: skip
    stp.tl.predict(adata, model)
    stp.tl.predict(tiles, model, window=1)
    single = tiles.obsm["predicted"]
    assert single.std(axis=0).min() > 0.01
    for i, name in enumerate(adata.obs["sample"].astype(str)):
        mean = single[(tiles.obs["sample"] == name).to_numpy()].mean(axis=0)
        np.testing.assert_allclose(mean, adata.obsm["predicted"][i], rtol=1e-5)


def test_the_mean_of_a_gene_correlates_over_genes_and_not_over_patients(
    tiles: ad.AnnData, expression: pd.DataFrame
) -> None:
    """The published headline of hist2RNA, .82 over the genes of a patient, is reached by the mean of the others."""
    adata = stp.pp.bag(tiles, expression=expression, by="patient", join="left", method="mean")
    stp.pp.normalize(adata, unit="fpkm-uq")
    small = {"hyperparameters": {"hidden": (16, 16)}, "training": {"max_epochs": 5}, "baselines": ["mean"]}
    stp.tl.fit_folds(adata, "hist2rna", 4, features="color-texture", **small)
    table = stp.tl.pseudobulk_agreement({"hist2rna": stp.tl.pseudobulk(adata)}, correlation="spearman")
    r = table.assign(r=table["r"].astype(float)).groupby(["model", "kind"])["r"]
    assert r.size().to_dict() == {
        (model, kind): n
        for model in ("hist2rna", "gene mean")
        for kind, n in (("across genes", 4), ("across patients", 50))
    }
    assert r.mean()["gene mean", "across genes"] > 0.6
    assert r.count()["gene mean", "across patients"] == 0
    assert stp.get.predicted(adata, scale="linear").X.min() >= 0
