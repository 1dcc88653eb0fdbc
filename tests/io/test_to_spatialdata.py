from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import stpredict as stp
from stpredict.io._image import element_scale, section_image
from stpredict.slots._container import find_table
from stpredict.slots._keys import escaped
from stpredict.slots._prediction import prediction_frame, write_prediction
from stpredict.slots._provenance import read_record, write_record
from stpredict.slots._sections import section_entry


def pixels(seed: int) -> np.ndarray:
    image = np.random.default_rng(seed).integers(200, 256, (160, 220, 3), dtype=np.uint8)
    image[20:125, 30:155] = 90
    return image


@pytest.fixture
def adata(tmp_path):
    """S1 with an image file, S2 with an array as image, S3 without an image."""
    row, col = np.mgrid[:5, :6].reshape(2, -1)
    rng = np.random.default_rng(0)
    sections = []
    for i, name in enumerate(["S1", "S2", "S3"]):
        index = [f"{name}_{j}" for j in range(30)]
        counts = pd.DataFrame(rng.poisson(1, (30, 4)), index=index, columns=list("ABCD"))
        positions = pd.DataFrame({"x": 40.0 + 20 * col + i, "y": 30.0 + 20 * row}, index=index)
        image = {"S1": tmp_path / "S1.png", "S2": pixels(2), "S3": None}[name]
        if name == "S1":
            Image.fromarray(pixels(1)).save(image)
        sections.append(
            stp.io.from_tables(
                counts,
                positions,
                image,
                sample=name,
                patient=f"P{i}",
                microns_per_pixel=0.5,
                spot_diameter_um=5.0,
                thumbnail_px=110,
            )
        )
    adata = anndata.concat(sections, join="outer")
    adata.uns["spatial"] = {name: entry for part in sections for name, entry in part.uns["spatial"].items()}
    return adata[np.random.default_rng(3).permutation(90)].copy()


def test_elements_and_their_positions(adata):
    from spatialdata import get_extent

    before = adata.copy()
    sdata = stp.io.to_spatialdata(adata)
    assert sorted(sdata.shapes) == ["S1_spots", "S2_spots", "S3_spots"]
    assert sorted(sdata.images) == ["S1_image", "S2_image"]
    assert sorted(sdata.coordinate_systems) == ["S1", "S2", "S3"]
    some = stp.io.to_spatialdata(adata[adata.obs["sample"] != "S2"])
    assert sorted(some.tables["table"].uns["spatial"]) == ["S1", "S3"]
    assert sorted(stp.io.from_spatialdata(some).uns["spatial"]) == ["S1", "S3"]
    mine = adata[adata.obs["sample"] == "S2"]
    circles = sdata.shapes["S2_spots"].loc[mine.obs_names]
    np.testing.assert_array_equal(np.column_stack([circles.geometry.x, circles.geometry.y]), mine.obsm["spatial"])
    assert (circles["radius"] == 5.0).all()
    extent = get_extent(sdata.images["S1_image"], coordinate_system="S1")
    assert extent["x"] == pytest.approx((0, 220))
    assert extent["y"] == pytest.approx((0, 160))
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert "spatialdata_attrs" not in adata.uns


def test_table_joins_the_circles(adata):
    from spatialdata import match_table_to_element

    sdata = stp.io.to_spatialdata(adata, table_key="spots")
    table = match_table_to_element(sdata, "S3_spots", "spots")
    assert list(table.obs_names) == list(sdata.shapes["S3_spots"].index)
    assert set(table.obs["sample"]) == {"S3"}


def test_zarr_round_trip(adata, tmp_path):
    from spatialdata import SpatialData

    sdata = stp.io.to_spatialdata(adata)
    sdata.write(tmp_path / "a.zarr")
    back = SpatialData.read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(back.images["S1_image"].values, sdata.images["S1_image"].values)
    assert element_scale(back.images["S1_image"], "S1") == pytest.approx(2.0)
    again = stp.io.from_spatialdata(back)
    assert list(again.obs_names) == list(adata.obs_names)
    np.testing.assert_array_equal(again.obsm["spatial"], adata.obsm["spatial"])
    assert (again.layers["counts"] != adata.layers["counts"]).nnz == 0
    pd.testing.assert_frame_equal(again.obs[adata.obs.columns], adata.obs, check_categorical=False)
    assert again.uns["spatial"]["S1"]["metadata"] == adata.uns["spatial"]["S1"]["metadata"]
    assert again.uns["spatial"]["S3"]["scalefactors"] == adata.uns["spatial"]["S3"]["scalefactors"]


@pytest.mark.parametrize("scale_factors", [None, [2]])
def test_full_resolution_is_lazy_and_exact(adata, tmp_path, scale_factors):
    import dask.array as da
    from spatialdata import SpatialData

    adata = adata[adata.obs["sample"] != "S2"].copy()
    sdata = stp.io.to_spatialdata(adata, full_resolution=True, scale_factors=scale_factors)
    element = sdata.images["S1_image"]
    largest = element if scale_factors is None else element["scale0"]["image"]
    assert isinstance(largest.data, da.Array)
    assert element_scale(element, "S1") == 1.0
    sdata.write(tmp_path / "a.zarr")
    back = SpatialData.read(tmp_path / "a.zarr")
    (tmp_path / "S1.png").unlink()
    found = section_image(back, back.tables["table"], "S1")
    np.testing.assert_array_equal(found.band(0, 160), pixels(1))


def test_full_resolution_that_is_not_there(adata):
    with pytest.raises(KeyError, match="section 'S2'"):
        stp.io.to_spatialdata(adata, full_resolution=True)


def test_a_thumbnail_is_not_taken_for_the_full_image(adata):
    sdata = stp.io.to_spatialdata(adata)
    with pytest.raises(KeyError, match="pass `image=`"):
        section_image(sdata, sdata.tables["table"], "S2")
    assert section_image(sdata, sdata.tables["table"], "S1").width == 220


def test_without_images(adata):
    assert not list(stp.io.to_spatialdata(adata, images=False).images)


def test_radius(adata):
    del adata.uns["spatial"]["S2"]["scalefactors"]["spot_diameter_fullres"]
    with pytest.raises(ValueError, match=r"section 'S2'.*pass `radius_px=`"):
        stp.io.to_spatialdata(adata)
    sdata = stp.io.to_spatialdata(adata, radius_px={"S2": 7.0})
    assert (sdata.shapes["S2_spots"]["radius"] == 7.0).all()
    assert (sdata.shapes["S1_spots"]["radius"] == 5.0).all()


def test_errors(adata):
    with pytest.raises(KeyError, match="obs\\['slide'\\]"):
        stp.io.to_spatialdata(adata, sample_key="slide")
    twice = adata[[0, 0, 1]].copy()
    with pytest.raises(ValueError, match="unique names of observations"):
        stp.io.to_spatialdata(twice)
    named = adata.copy()
    named.obs["sample"] = named.obs["sample"].cat.rename_categories({"S2": "S 3/b", "S3": "s 3(b)"})
    with pytest.raises(ValueError, match=r"found 's 3\(b\)' beside others|found 'S 3/b' beside others"):
        stp.io.to_spatialdata(named, radius_px=1.0)
    gaps = adata.copy()
    gaps.obs["sample"] = gaps.obs["sample"].astype(object).where(np.arange(90) > 0, None)
    with pytest.raises(ValueError, match="gaps in obs"):
        stp.io.to_spatialdata(gaps)
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="obsm\\['spatial'\\]"):
        stp.io.to_spatialdata(adata)


ODD = {"S1": "a/b (c)", "S2": "β 1", "S3": ".hidden"}


def test_sections_of_any_name_survive_every_store(adata, tmp_path):
    from spatialdata import read_zarr

    adata.obs["sample"] = adata.obs["sample"].cat.rename_categories(ODD)
    adata.uns["spatial"] = {escaped(ODD[name]): entry for name, entry in adata.uns["spatial"].items()}
    record = {"shape": {name: [3, 4] for name in ODD.values()}}
    write_record(adata, "grid", record)
    stp.io.to_spatialdata(adata).write(tmp_path / "s.zarr")
    adata.write_zarr(tmp_path / "a.zarr")
    adata.write_h5ad(tmp_path / "a.h5ad")
    sdata = read_zarr(tmp_path / "s.zarr")
    assert sorted(sdata.shapes) == ["a_b_c_spots", "hidden_spots", "β_1_spots"]
    assert set(sdata.coordinate_systems) == set(ODD.values())
    found = [
        anndata.read_zarr(tmp_path / "a.zarr"),
        anndata.read_h5ad(tmp_path / "a.h5ad"),
        stp.io.from_spatialdata(sdata),
    ]
    for again in found:
        assert again.obs["sample"].tolist() == adata.obs["sample"].tolist()
        assert read_record(again, "grid")["shape"] == record["shape"]
        for name in ODD.values():
            assert section_entry(again, name)["scalefactors"] == section_entry(adata, name)["scalefactors"]
    with pytest.raises(KeyError, match="full-resolution image"):  # the thumbnail of the section was found
        section_image(sdata, sdata.tables["table"], ODD["S2"])


def predicted(adata, key="predicted", genes=("HLA-DQB1/2", "A"), **record):
    values = np.random.default_rng(0).normal(size=(adata.n_obs, len(genes)))
    write_prediction(adata, key, pd.DataFrame(values, adata.obs_names, list(genes)), record)


def test_predictions_are_tables_of_their_own(adata, tmp_path):
    from spatialdata import match_table_to_element, read_zarr

    predicted(adata)
    predicted(adata, "predicted_net", model="m")
    predicted(adata, "predicted_mean", comparator=True)
    write_prediction(adata, "predicted_std", prediction_frame(adata, "predicted").abs(), beside="predicted")
    adata.obsm["own"] = pd.DataFrame({"score": np.arange(90.0)}, index=adata.obs_names)
    adata.obs["predicted_leaky"], adata.obs["other"] = False, 1
    stp.io.write_zarr(stp.io.to_spatialdata(adata, images=False), tmp_path / "s.zarr")
    sdata = read_zarr(tmp_path / "s.zarr")
    assert sorted(sdata.tables) == ["predicted", "predicted_net", "table"]
    table = match_table_to_element(sdata, "S2_spots", "predicted")
    assert table.var_names.tolist() == ["HLA-DQB1/2", "A"]
    wanted = prediction_frame(adata, "predicted").loc[table.obs_names]
    np.testing.assert_array_equal(table.X, wanted)
    np.testing.assert_array_equal(table.layers["std"], wanted.abs())
    np.testing.assert_array_equal(table.layers["measured"][:, 1], adata[table.obs_names, "A"].X.toarray().ravel())
    assert np.isnan(table.layers["measured"][:, 0]).all()
    assert {"sample", "patient", "predicted_leaky"} <= set(table.obs)
    assert "other" not in table.obs
    assert read_record(sdata.tables["predicted_net"], "prediction")["model"] == "m"
    assert find_table(stp.io.to_spatialdata(adata, images=False, table_key="spots")) == "spots"
    again = stp.io.from_spatialdata(sdata)
    pd.testing.assert_frame_equal(prediction_frame(again, "predicted"), prediction_frame(adata, "predicted"))
    alone = stp.io.from_spatialdata(sdata, "predicted")
    np.testing.assert_array_equal(alone.obsm["spatial"], adata.obsm["spatial"])
    for chosen, names in ((False, ["table"]), ("predicted_mean", ["predicted_mean", "table"])):
        assert sorted(stp.io.to_spatialdata(adata, images=False, predictions=chosen).tables) == names
    with pytest.raises(KeyError, match="predictions="):
        stp.io.to_spatialdata(adata, predictions=["nothing"])


def test_names_of_yours_are_accepted_and_named(adata):
    adata.obs["my score (x)"] = adata.obs["my_score_x"] = 1.0
    adata.obsm["a/b"] = adata.obsm["spatial"].copy()
    with pytest.warns(UserWarning, match="my score"):
        table = stp.io.to_spatialdata(adata).tables["table"]
    assert {"my_score_x", "my_score_x_2"} <= set(table.obs)
    assert "a_b" in table.obsm
    assert "my score (x)" in adata.obs
