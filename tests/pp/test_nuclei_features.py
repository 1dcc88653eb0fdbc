from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import stpredict as stp

NAMES = stp.encoders.nuclei_names()


@pytest.fixture(scope="module")
def adata() -> AnnData:
    image, truth = stp.datasets.synthetic_nuclei(320, seed=70)
    rng = np.random.default_rng(0)
    xy = rng.uniform(250, np.array(image.shape[1::-1]) - 250, (12, 2))
    obs = pd.DataFrame({"sample": "s"}, index=[f"spot{i}" for i in range(len(xy))])
    adata = AnnData(np.zeros((len(xy), 1)), obs=obs, obsm={"spatial": xy})
    stp.pp.nuclei(adata, image=image, microns_per_pixel=0.5, progress=False)
    stp.pp.image_features(
        adata, "nuclei", image=image, microns_per_pixel=0.5, cache=False, progress=False, key_added="X_tiles"
    )
    adata.uns["truth"] = truth[["x", "y"]].to_numpy()
    return adata


def column(adata: AnnData, name: str, key: str = "X_nuclei") -> np.ndarray:
    return adata.obsm[key][:, NAMES.index(name)]


def test_counts_are_those_of_the_nuclei_around(adata):
    stp.pp.nuclei_features(adata, tile_um=100, context=(1, 2))
    frame = stp.get.nuclei(adata)
    for row, (x, y) in enumerate(adata.obsm["spatial"]):
        for part, half in enumerate((100, 200)):
            near = (np.abs(frame["x"] - x) <= half) & (np.abs(frame["y"] - y) <= half)
            density = adata.obsm["X_nuclei"][row, 38 * part + NAMES.index("density")]
            assert density == pytest.approx(1e3 * near.sum() / half**2, rel=1e-5)
    assert adata.uns["stpredict"]["X_nuclei"]["dim"] == 76


def test_densities_follow_the_truth(adata):
    stp.pp.nuclei_features(adata)
    near = np.abs(adata.uns["truth"][None] - adata.obsm["spatial"][:, None]) <= 112
    expected = 1e3 * near.all(axis=2).sum(axis=1) / 112**2
    for key in ("X_nuclei", "X_tiles"):
        assert np.corrcoef(column(adata, "density", key), expected)[0, 1] > 0.95
        np.testing.assert_allclose(column(adata, "density", key).mean(), expected.mean(), rtol=0.12)


def test_tiles_by_themselves_agree_with_the_section(adata):
    stp.pp.nuclei_features(adata)
    for name in ("covered", "area_um2_mean", "hematoxylin_mean", "elongation_mean"):
        assert np.corrcoef(column(adata, name), column(adata, name, "X_tiles"))[0, 1] > 0.8, name


def test_the_encoder_keeps_its_scale_in_wider_contexts():
    image, _ = stp.datasets.synthetic_nuclei(320, seed=71)
    middle = np.array([[image.shape[1] / 2, image.shape[0] / 2]])
    adata = AnnData(np.zeros((1, 1)), obs=pd.DataFrame({"sample": ["s"]}, index=["a"]), obsm={"spatial": middle})
    options = {"image": image, "microns_per_pixel": 0.5, "cache": False, "progress": False}
    stp.pp.image_features(adata, "nuclei", context=(1, 2), **options)
    stp.pp.image_features(adata, "nuclei", tile_um=224, key_added="X_wide", **options)
    np.testing.assert_array_equal(adata.obsm["X_nuclei"][:, 38:], adata.obsm["X_wide"])
    assert adata.uns["stpredict"]["X_wide"]["tile_px"] == 224


def test_types_are_counted_and_asked_for(adata):
    frame = stp.get.nuclei(adata)
    given = frame[["geometry"]].copy()
    given["type"] = np.where(frame["area_um2"] > 40, "large", "small")
    typed = adata.copy()
    image = np.full((1500, 1500, 3), 200, np.uint8)
    stp.pp.nuclei(typed, given, image=image, microns_per_pixel=0.5, progress=False, key_added="typed")
    stp.pp.nuclei_features(typed, nuclei_key="typed")
    found = typed.obsm["X_typed"]
    assert found.shape == (12, 42)
    np.testing.assert_allclose(found[:, 38] + found[:, 40], found[:, 0], rtol=1e-4)
    assert list(typed.uns["stpredict"]["X_typed"]["types"]) == ["large", "small"]
    stp.pp.nuclei_features(typed, nuclei_key="typed", types=["small"], key_added="X_small")
    np.testing.assert_array_equal(typed.obsm["X_small"][:, 38:], found[:, 40:])
    prints = {typed.uns["stpredict"][key]["fingerprint"] for key in ("X_small", "X_typed")}
    assert len(prints) == 2
    with pytest.raises(ValueError, match="expected nuclei with types"):
        stp.pp.nuclei_features(adata, types=["tumor"])


def test_what_is_missing_is_named(adata):
    bare = AnnData(obs=adata.obs[["sample"]], obsm={"spatial": adata.obsm["spatial"]})
    with pytest.raises(KeyError, match="run stp.pp.nuclei first"):
        stp.pp.nuclei_features(bare)
    with pytest.raises(ValueError, match="different multiples"):
        stp.pp.nuclei_features(adata, context=(1, 1))


def test_features_of_several_kinds_are_required_at_prediction():
    cohort = stp.datasets.synthetic_cohort(3, 1, 20, n_spots=12, pitch_um=100)
    stp.pp.normalize(cohort)
    stp.pp.image_features(cohort, progress=False)
    stp.pp.nuclei(cohort, progress=False)
    stp.pp.nuclei_features(cohort)
    train = (cohort.obs["patient"] != "P3").to_numpy()
    features = {"slot": ["color-texture", "nuclei"], "scaling": "section"}
    model = stp.tl.fit(cohort, "ridge", train, features=features, hyperparameters={"kinds": "slots"}, baselines=())
    assert tuple(model.network.config.kinds) == (306, 38)
    assert list(model.features["slots"]) == ["X_color-texture", "X_nuclei"]
    test = cohort[~train].copy()
    stp.tl.predict(test, model)
    assert test.obsm["predicted"].shape == (12, 20)
    lacking = cohort[~train].copy()
    del lacking.obsm["X_nuclei"]
    with pytest.raises(KeyError, match="X_nuclei"):
        stp.tl.predict(lacking, model)
    other = cohort[~train].copy()
    stp.pp.nuclei_features(other, tile_um=60)
    with pytest.raises(ValueError, match="tile_um: model 112"):
        stp.tl.predict(other, model)
