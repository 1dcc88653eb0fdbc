from __future__ import annotations

import anndata
import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.core._stain import Recoloring
from stpredict.io._image import section_image
from stpredict.slots._provenance import read_record
from stpredict.slots._stain import STAIN
from stpredict.training import FittedModel

KEY = "X_color-texture"


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(stp.settings, "progress", False)
    monkeypatch.setattr(stp.settings, "device", "cpu")


@pytest.fixture(scope="module")
def cohort():
    data = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_spots=24, n_genes=6, stain_shift=0.3)
    stp.pp.normalize(data)
    return data


@pytest.fixture
def adata(cohort):
    return cohort.copy()


@pytest.fixture
def train(adata):
    return adata[adata.obs["patient"] != "P3"]


class Mean(torch.nn.Module):
    """Mean color of a tile."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return 255 * tiles.mean(dim=(2, 3))


def stained(amounts: np.ndarray, vectors: list[list[float]]) -> np.ndarray:
    """Picture of two dyes by Beer and Lambert, from their amounts (h, w, 2)."""
    unit = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.clip(240 * np.exp(-amounts @ unit), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
def test_two_stainings_of_one_section_come_together(cohort, method: str) -> None:
    """The same tissue in other dyes, and more of one and less of the other, under another name."""
    one = cohort[cohort.obs["sample"] == "P1_S1"].copy()
    rng = np.random.default_rng(0)
    kind = np.kron(rng.integers(0, 3, (160, 200)), np.ones((8, 8), dtype=int))
    amounts = np.array([[1.4, 0.1], [0.05, 0.9], [0.6, 0.5]])[kind] * rng.gamma(8, 1 / 8, (*kind.shape, 2))
    picture = stained(amounts, [[0.65, 0.70, 0.29], [0.10, 0.95, 0.15]])
    restained = stained(amounts * (0.8, 1.3), [[0.55, 0.75, 0.37], [0.20, 0.90, 0.35]])
    both = anndata.AnnData(np.zeros((2 * one.n_obs, 1)), obsm={"spatial": np.tile(one.obsm["spatial"], (2, 1))})
    both.obs["sample"] = both.obs["patient"] = np.repeat(["a", "b"], one.n_obs)
    given = {"image": {"a": picture, "b": restained}, "microns_per_pixel": 1.0}
    encoder = stp.encoders.Encoder(Mean(), "mean", 112, dim=3, mean=(0, 0, 0), std=(1, 1, 1))

    def apart() -> float:
        stp.pp.image_features(both, encoder, cache=False, **given)
        return float(np.abs(both.obsm["X_mean"][: one.n_obs] - both.obsm["X_mean"][one.n_obs :]).mean())

    before = apart()
    reference = stp.pp.stain_reference(both[both.obs["sample"] == "a"], method, **given)
    stp.pp.normalize_stain(both, reference=reference, **given)
    assert before > 5
    assert apart() < before / 2


def test_the_light_of_each_section_is_that_of_the_reference(cohort, tmp_path) -> None:
    """One section scanned twice, through pink glass the second time; found in new sections as in the training."""
    one = cohort[cohort.obs["sample"] == "P1_S1"].copy()
    picture = section_image(one, one, "P1_S1").band(0, 2000)[:, :2000]
    pink = (picture * (0.97, 0.86, 0.98)).astype(np.uint8)
    inside = one[(one.obsm["spatial"] < 1800).all(axis=1)]
    both = anndata.AnnData(np.zeros((2 * inside.n_obs, 1)), obsm={"spatial": np.tile(inside.obsm["spatial"], (2, 1))})
    both.obs["sample"] = both.obs["patient"] = np.repeat(["a", "b"], inside.n_obs)
    given = {"image": {"a": picture, "b": pink}, "microns_per_pixel": 1.0}
    encoder = stp.encoders.Encoder(Mean(), "mean", 112, dim=3, mean=(0, 0, 0), std=(1, 1, 1))

    def apart(**options) -> float:
        stp.pp.normalize_stain(both, **options, **given)
        stp.pp.image_features(both, encoder, cache=False, image=given["image"], microns_per_pixel=1.0)
        return float(np.abs(both.obsm["X_mean"][: inside.n_obs] - both.obsm["X_mean"][inside.n_obs :]).mean())

    found = {"as it is": apart(method="none")}
    for white in ("published", "section"):
        reference = stp.pp.stain_reference(both[both.obs["sample"] == "a"], white=white, **given)
        reference.save(tmp_path / "stain.json")
        found |= {white: apart(white=white), f"{white}, fitted": apart(reference=tmp_path / "stain.json")}
    assert found["section"] < found["published"] / 3
    assert found["section, fitted"] < found["published, fitted"] / 3
    light = {name: values[8:] for name, values in read_record(both, STAIN)["sections"].items()}
    np.testing.assert_allclose(light["b"], np.multiply(light["a"], (0.97, 0.86, 0.98)), atol=1.5)
    assert read_record(both, STAIN)["reference"]["values"][8:] == light["a"]


def test_features_and_models_remember_the_reference(adata, train, tmp_path) -> None:
    reference = stp.pp.stain_reference(train)
    stp.pp.normalize_stain(adata, reference=reference)
    stp.pp.image_features(adata, context=(1,))
    record = read_record(adata, KEY)
    assert pp_reference(record) == reference
    assert set(record["left"]) == {"P1_S1", "P2_S1", "P3_S1"}
    assert record["patients_seen"] == ["P1", "P2"]
    model = stp.tl.fit(adata, "ridge", train=(adata.obs["patient"] != "P3").to_numpy())
    model.save(tmp_path / "model")
    model = FittedModel.load(tmp_path / "model")
    new = adata[adata.obs["patient"] == "P3"].copy()
    stp.tl.predict(new, model)
    assert not new.obs["predicted_leaky"].any()
    stp.pp.normalize_stain(new, "none")
    stp.pp.image_features(new, context=(1,))
    with pytest.raises(
        ValueError, match=r"stain: model macenko, sections .* data none.*normalize_stain\(adata, reference=model\)"
    ):
        stp.tl.predict(new, model)
    stp.pp.normalize_stain(new, reference=model)
    stp.pp.image_features(new, context=(1,))
    stp.tl.predict(new, model)
    np.testing.assert_allclose(new.obsm[KEY], adata[new.obs_names].obsm[KEY], atol=1e-6)


def pp_reference(record):
    return stp.pp.StainReference.from_dict(record["stain"])


def test_a_model_of_pictures_as_they_are_refuses_recolored_ones(adata) -> None:
    stp.pp.image_features(adata, context=(1,))
    model = stp.tl.fit(adata, "ridge", train=(adata.obs["patient"] != "P3").to_numpy())
    stp.pp.normalize_stain(adata)
    stp.pp.image_features(adata, context=(1,))
    with pytest.raises(
        ValueError, match=r"stain: model none, data macenko, published .*normalize_stain\(adata, 'none'\)"
    ):
        stp.tl.predict(adata, model)
    with pytest.raises(ValueError, match="one stain reference"):
        stp.pp.normalize_stain(adata, reference=model)


def test_a_network_of_pixels_reads_recolored_ones_and_remembers_that(adata, train) -> None:
    mask = (adata.obs["patient"] != "P3").to_numpy()
    plain = stp.tl.fit(adata, "color", train=mask)
    stp.tl.predict(adata, plain, key_added="plain")
    stp.pp.normalize_stain(adata, reference=stp.pp.stain_reference(train))
    with pytest.raises(ValueError, match="stains of the training"):
        stp.tl.predict(adata, plain)
    model = stp.tl.fit(adata, "color", train=mask)
    assert "P1" in model.training.patients_seen
    stp.tl.predict(adata, model)
    assert not np.allclose(adata.obsm["predicted"], adata.obsm["plain"], atol=1e-3)
    other = stp.pp.stain_reference(adata[adata.obs["patient"] == "P3"])
    stp.pp.normalize_stain(adata, reference=other)
    with pytest.raises(ValueError, match="stains of the training"):
        stp.tl.predict(adata, model)


def test_whose_sections_made_the_reference_is_marked_leaky(adata) -> None:
    stp.pp.normalize_stain(adata, reference=stp.pp.stain_reference(adata))
    stp.pp.image_features(adata, context=(1,))
    model = stp.tl.fit(adata, "ridge", train=(adata.obs["patient"] != "P3").to_numpy())
    stp.tl.predict(adata, model)
    assert adata.obs["predicted_leaky"].all()


def test_part_of_a_section_has_the_stains_of_the_whole(adata) -> None:
    stp.pp.normalize_stain(adata)
    part = adata[::3].copy()
    stp.pp.image_features(adata, context=(1,))
    stp.pp.image_features(part, context=(1,))
    np.testing.assert_allclose(part.obsm[KEY], adata[::3].obsm[KEY], rtol=1e-5, atol=1e-6)


def test_stains_do_not_depend_on_the_order_of_observations_or_on_other_sections(adata) -> None:
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    alone = adata[adata.obs["sample"] == "P2_S1"].copy()
    found = []
    for data in (adata, shuffled, alone):
        stp.pp.normalize_stain(data, n_tiles=8)
        found.append(read_record(data, STAIN)["sections"]["P2_S1"])
    assert found[0] == found[1] == found[2]


def test_cached_features_are_those_of_the_reference(adata, train) -> None:
    results = []
    for reference in (None, stp.pp.stain_reference(train), None):
        stp.pp.normalize_stain(adata, reference=reference)
        stp.pp.image_features(adata, context=(1,))
        results.append((adata.obsm[KEY].copy(), read_record(adata, KEY)["left"]))
    np.testing.assert_array_equal(results[0][0], results[2][0])
    assert results[0][1] == results[2][1]
    assert not np.allclose(results[0][0], results[1][0])


def test_stores_concat_and_none(adata, train, tmp_path) -> None:
    stp.pp.normalize_stain(adata, reference=stp.pp.stain_reference(train))
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert section_image(again, again, "P1_S1").stain == section_image(adata, adata, "P1_S1").stain
    parts = [adata[adata.obs["patient"] == name].copy() for name in ("P1", "P3")]
    joined = stp.concat(parts)
    assert isinstance(section_image(joined, joined, "P3_S1").stain, Recoloring)
    stp.pp.normalize_stain(adata, "none")
    assert section_image(adata, adata, "P1_S1").stain is None


def test_reference_is_the_mean_over_patients_and_survives_a_file(adata, tmp_path) -> None:
    reference = stp.pp.stain_reference(adata)
    each = [stp.pp.stain_reference(adata[adata.obs["patient"] == name]).stain.values for name in ("P1", "P2", "P3")]
    np.testing.assert_allclose(reference.stain.values[6:], np.mean(each, axis=0)[6:])
    reference.save(tmp_path / "stain.json")
    assert stp.pp.StainReference.load(tmp_path / "stain.json") == reference
    stp.pp.normalize_stain(adata, reference=tmp_path / "stain.json")
    assert read_record(adata, STAIN)["reference"]["patients"] == ["P1", "P2", "P3"]
    copy = adata.copy()
    del copy.obs["patient"]
    assert stp.pp.stain_reference(copy).patients == ("unknown",)


@pytest.mark.filterwarnings("ignore:.*gray")
def test_errors_name_what_is_wrong_and_leave_the_object(adata) -> None:
    before = dict(adata.uns["stpredict"])
    cases = [
        ({"method": "otsu"}, "method"),
        ({"method": "reinhard"}, "published reference"),
        ({"reference": "nowhere.json"}, "no file"),
        ({"method": "reinhard", "reference": stp.pp.StainReference.published()}, "reference of 'reinhard'"),
        ({"method": "none", "reference": "published"}, "neither `reference="),
        ({"n_tiles": 0}, "n_tiles"),
        ({"white": "black"}, "white"),
        ({"reference": stp.pp.StainReference.published(), "white": "section"}, "white='section'; found 'published'"),
        ({"method": "none", "white": "section"}, "nor `white="),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            stp.pp.normalize_stain(adata, **options)
    with pytest.raises(TypeError, match="found int"):
        stp.pp.normalize_stain(adata, reference=3)
    pictures = {name: np.full((2500, 2500, 3), 120, np.uint8) for name in adata.obs["sample"].unique()}
    with pytest.raises(ValueError, match=r"section 'P1_S1' stained.*gray picture.*leave it out"):
        stp.pp.normalize_stain(adata, image=pictures)
    assert dict(adata.uns["stpredict"]) == before
    pictures = {name: np.tile(np.uint8([[[150, 60, 120], [140, 90, 170]]]), (2500, 1250, 1)) for name in pictures}
    with pytest.raises(ValueError, match=r"glass around the tissue of section 'P1_S1'.*white='published'"):
        stp.pp.normalize_stain(adata, white="section", image=pictures)
    with pytest.raises(ValueError, match="moves the glass"):
        stp.pp.stain_reference(adata, "reinhard", white="section")
    stp.pp.normalize_stain(adata)
    del adata.uns["stpredict"][STAIN]["sections"]["P3_S1"]
    with pytest.raises(KeyError, match=r"stains of section 'P3_S1'.*normalize_stain again"):
        stp.pp.image_features(adata)


def test_a_slide_is_streamed(open_painted) -> None:
    slide = open_painted(mpp=1.0)
    stp.pp.tissue(slide)
    stp.pp.tiles(slide, tile_um=112.0)
    stp.pp.image_features(slide, context=(1,))
    before = slide.tables["color-texture_tiles"].X.copy()
    copy = stp.pp.normalize_stain(slide, copy=True)
    assert STAIN not in slide.attrs["stpredict"]
    for _ in range(2):  # computed, and from the cache
        stp.pp.image_features(copy, context=(1,))
        table = copy.tables["color-texture_tiles"]
        record = read_record(table, KEY)
        assert pp_reference(record) == stp.pp.StainReference.published()
        assert record["left"] == {"slide": 0}
    assert np.abs(table.X[:, :3] - before[:, :3]).mean() > 0.01 * np.abs(before[:, :3]).mean()
    stp.pp.normalize_stain(copy, white="section")
    np.testing.assert_allclose(copy.attrs["stpredict"][STAIN]["sections"]["slide"][8:], 243, atol=1)
    stp.pp.normalize_stain(copy, "none")
    stp.pp.image_features(copy, context=(1,))
    np.testing.assert_array_equal(copy.tables["color-texture_tiles"].X, before)
