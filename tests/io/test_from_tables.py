from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy import sparse

import stpredict as stp


@pytest.fixture
def counts() -> pd.DataFrame:
    values = np.random.default_rng(0).poisson(1, (30, 5))
    return pd.DataFrame(values, index=[f"s{i}" for i in range(30)], columns=list("ABCDE"))


@pytest.fixture
def positions() -> pd.DataFrame:
    row, col = np.mgrid[:5, :6].reshape(2, -1)
    table = pd.DataFrame({"x": 40.0 + 20 * col, "y": 30.0 + 20 * row, "array_row": row, "array_col": col})
    table.index = [f"s{i}" for i in range(30)]
    return table.iloc[::-1]


@pytest.fixture
def picture() -> np.ndarray:
    image = np.full((160, 220, 3), 240, dtype=np.uint8)
    image[20:125, 30:155] = 90
    return image


def test_joins_by_barcode(counts, positions):
    with pytest.warns(UserWarning, match="10 of 30 barcodes"):
        adata = stp.io.from_tables(counts, positions.iloc[:20], sample="S1", patient="P1", microns_per_pixel=0.5)
    assert list(adata.obs_names) == [f"s{i}" for i in range(10, 30)]
    np.testing.assert_array_equal(adata.X.toarray(), counts.iloc[10:])
    np.testing.assert_array_equal(adata.obsm["spatial"], positions.loc[adata.obs_names, ["x", "y"]])
    np.testing.assert_array_equal(adata.obs["array_row"], positions.loc[adata.obs_names, "array_row"])
    assert (adata.obs["sample"] == "S1").all()
    assert (adata.obs["patient"] == "P1").all()
    assert adata.uns["spatial"]["S1"]["scalefactors"] == {"microns_per_pixel": 0.5}


def test_inputs_are_left_alone(counts, positions):
    before = counts.copy(), positions.copy()
    stp.io.from_tables(counts, positions, microns_per_pixel=0.5)
    pd.testing.assert_frame_equal(counts, before[0])
    pd.testing.assert_frame_equal(positions, before[1])


def test_anndata_sparse_and_dense_agree(counts, positions):
    obs = pd.DataFrame({"batch": range(30)}, index=counts.index)
    var = pd.DataFrame({"gene_ids": range(5)}, index=counts.columns)
    dense = AnnData(counts.to_numpy().astype(float), obs=obs, var=var)
    layered = AnnData(sparse.csr_matrix(np.log1p(counts.to_numpy())), obs=obs, var=var)
    layered.layers["counts"] = sparse.csc_matrix(counts.to_numpy())
    plain = stp.io.from_tables(counts, positions, microns_per_pixel=0.5)
    for other in (dense, layered):
        adata = stp.io.from_tables(other, positions, microns_per_pixel=0.5)
        assert sparse.isspmatrix_csr(adata.X)
        assert (adata.X != plain.X).nnz == 0
        assert list(adata.obs["batch"]) == list(range(30))
        assert "gene_ids" in adata.var
    assert "sample" not in dense.obs


def test_unmeasured_section(positions, counts):
    adata = stp.io.from_tables(None, positions, sample="S2", microns_per_pixel=0.5)
    assert adata.shape == (30, 0)
    assert not adata.obs["measured"].any()
    measured = stp.io.from_tables(counts, positions, sample="S1", microns_per_pixel=0.5)
    both = anndata.concat([measured, adata], join="outer", index_unique="-", fill_value=0)
    assert both.shape == (60, 5)
    assert both.obs["measured"].dtype == bool


def test_pixel_size_from_the_lattice(counts, positions):
    adata = stp.io.from_tables(counts, positions, pitch_um=200, spot_diameter_um=100)
    factors = adata.uns["spatial"]["sample"]["scalefactors"]
    assert factors["microns_per_pixel"] == pytest.approx(10)
    assert factors["spot_diameter_fullres"] == pytest.approx(10)
    assert adata.uns["stpredict"]["read"]["lattice"] == "square"
    with pytest.raises(ValueError, match="hexagonal"):
        stp.io.from_tables(counts, positions, pitch_um=200, lattice="hexagonal")


@pytest.mark.parametrize("kwargs", [{}, {"pitch_um": 200}])
def test_unknown_pixel_size(counts, positions, kwargs):
    with pytest.raises(ValueError, match="expected the µm per pixel"):
        stp.io.from_tables(counts, positions[["x", "y"]], **kwargs)


@pytest.mark.filterwarnings("ignore:29 of 30 barcodes")
def test_one_spot(counts, positions):
    with pytest.raises(ValueError, match="found 1 spot"):
        stp.io.from_tables(counts, positions.iloc[:1], pitch_um=200)
    assert stp.io.from_tables(counts, positions.iloc[:1], microns_per_pixel=1).n_obs == 1


@pytest.mark.parametrize("as_path", [False, True])
def test_image(counts, positions, picture, tmp_path, as_path):
    image = tmp_path / "he.png"
    Image.fromarray(picture).save(image)
    adata = stp.io.from_tables(
        counts, positions, image if as_path else picture, microns_per_pixel=0.5, thumbnail_px=110
    )
    entry = adata.uns["spatial"]["sample"]
    assert entry["images"]["hires"].shape == (80, 110, 3)
    assert entry["scalefactors"]["tissue_hires_scalef"] == 0.5
    assert entry["metadata"] == ({"source_image_path": str(image)} if as_path else {})


def test_small_array_stays_the_full_image(counts, positions, picture):
    adata = stp.io.from_tables(counts, positions, picture, microns_per_pixel=0.5)
    found = stp.io._image.section_image(adata, adata, "sample")
    np.testing.assert_array_equal(found.band(0, 160), picture)


def test_h5ad_round_trip(counts, positions, picture, tmp_path):
    adata = stp.io.from_tables(counts, positions, picture, microns_per_pixel=0.5, patient="P")
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    assert back.uns["spatial"]["sample"]["scalefactors"] == adata.uns["spatial"]["sample"]["scalefactors"]
    np.testing.assert_array_equal(back.uns["spatial"]["sample"]["images"]["hires"], picture)


def test_swapped_outside_and_truncated(counts, positions, picture, tmp_path):
    swapped = positions.rename(columns={"x": "y", "y": "x"})
    with pytest.raises(ValueError, match="x and y look swapped"):
        stp.io.from_tables(counts, swapped, picture[:135], microns_per_pixel=1)
    with pytest.raises(ValueError, match="outside"):
        stp.io.from_tables(counts, positions.assign(x=positions.x + 500), picture, microns_per_pixel=1)
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "he.jpg")
    data = (tmp_path / "he.jpg").read_bytes()
    (tmp_path / "he.jpg").write_bytes(data[: len(data) // 3])
    with pytest.raises(ValueError, match="truncated"):
        stp.io.from_tables(counts, positions, tmp_path / "he.jpg", microns_per_pixel=1)
    with pytest.raises(FileNotFoundError, match="no file"):
        stp.io.from_tables(counts, positions, tmp_path / "none.jpg", microns_per_pixel=1)


def test_bad_positions(counts, positions):
    call = lambda table: stp.io.from_tables(counts, table, microns_per_pixel=1)
    with pytest.raises(TypeError, match="ndarray"):
        call(positions.to_numpy())
    with pytest.raises(KeyError, match="missing y"):
        call(positions.drop(columns="y"))
    with pytest.raises(ValueError, match=r"numbers in positions\['x'\]"):
        call(positions.assign(x="left"))
    with pytest.raises(ValueError, match="found NaN for s29"):
        call(positions.assign(x=[np.nan, *positions["x"][1:]]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        call(positions.assign(x=[np.inf, *positions["x"][1:]]))
    with pytest.raises(ValueError, match="unique barcodes in positions"):
        call(pd.concat([positions, positions.iloc[:1]]))
    with pytest.raises(ValueError, match="s0, s1, s2.*t29, t28, t27"):
        call(positions.set_axis([name.replace("s", "t") for name in positions.index]))
    with pytest.raises(ValueError, match="no barcodes"):
        call(positions.iloc[:0])


def test_bad_counts(counts, positions):
    call = lambda table: stp.io.from_tables(table, positions, microns_per_pixel=1)
    with pytest.raises(TypeError, match="ndarray"):
        call(counts.to_numpy())
    with pytest.raises(ValueError, match="unique barcodes in counts"):
        call(pd.concat([counts, counts]))
    with pytest.raises(ValueError, match="unique genes"):
        call(counts.set_axis(list("AABCD"), axis=1))
    with pytest.raises(ValueError, match="non-negative"):
        call(counts - 5)
    with pytest.raises(ValueError, match="whole-number"):
        call(counts + 0.5)
    with pytest.raises(ValueError, match="other values in the columns B"):
        call(counts.assign(B="x"))
    with pytest.raises(ValueError, match="pass None if unmeasured"):
        call(AnnData(obs=pd.DataFrame(index=counts.index), var=pd.DataFrame(index=counts.columns)))
    with pytest.raises(ValueError, match="positive"):
        stp.io.from_tables(counts, positions, microns_per_pixel=0)


FORMS = {
    "nullable": lambda table: table.convert_dtypes(),
    "arrow": lambda table: table.convert_dtypes(dtype_backend="pyarrow"),
    "float16": lambda table: table.astype("float16"),
    "uint8": lambda table: table.astype("uint8"),
    "sparse": lambda table: table.astype(pd.SparseDtype(int, 0)),
    "arrow names": lambda table: table.rename(index=str).set_axis(table.index.astype("string[pyarrow]")),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_types_of_pandas(counts, positions, form):
    wanted = stp.io.from_tables(counts, positions, microns_per_pixel=0.5)
    places = positions if form is FORMS["sparse"] else form(positions)
    adata = stp.io.from_tables(form(counts), places, microns_per_pixel=0.5)
    np.testing.assert_array_equal(adata.X.toarray(), wanted.X.toarray())
    np.testing.assert_array_equal(adata.obsm["spatial"], wanted.obsm["spatial"])
    assert list(adata.obs_names) == list(wanted.obs_names)


def test_gaps_and_numbers_too_large(counts, positions):
    with pytest.raises(ValueError, match="found NaN for s29"):
        stp.io.from_tables(
            counts, positions.assign(x=pd.array([None, *positions["x"][1:]], dtype="Float64")), microns_per_pixel=1
        )
    with pytest.raises(ValueError, match="at most 3.4e"):
        stp.io.from_tables(counts.astype(float) * 1e300, positions, microns_per_pixel=1)
    with pytest.raises(ValueError, match="NaN or infinity"):
        stp.io.from_tables(counts.astype("Int64").mask(counts == 0), positions, microns_per_pixel=1)


@pytest.mark.parametrize("named", [False, True])
def test_a_patient_that_nobody_named_is_noted_at_reading(counts, positions, named, caplog):
    stp.io.from_tables(counts, positions, microns_per_pixel=1, patient="P1" if named else None)
    assert ("names no patient" in caplog.text) is not named


@pytest.mark.parametrize("form", ["frame", "anndata", "scanpy"])
def test_expression_that_is_normalized_already(counts, positions, form):
    values = np.log1p(counts) - 0.5  # no counts, and some of them below 0
    given = values if form == "frame" else anndata.AnnData(values.astype(np.float32))
    if form == "scanpy":
        given.uns["log1p"] = {"base": None}
        given.layers["counts"] = counts.to_numpy()
    with pytest.raises(ValueError, match="non-negative|normalized=True"):
        stp.io.from_tables(anndata.AnnData(values.astype(np.float32)), positions, microns_per_pixel=0.5)
    adata = stp.io.from_tables(given, positions, microns_per_pixel=0.5, patient="P1", normalized=True)
    np.testing.assert_allclose(adata.X, values.loc[adata.obs_names], rtol=1e-6)
    assert list(adata.layers) == []
    assert adata.obs["measured"].all()
    adata.obsm["X_some"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2)).astype(np.float32)
    adata.uns["stpredict"] = {**adata.uns["stpredict"], "X_some": {"encoder": "some"}}
    model = stp.tl.fit(adata, "ridge")
    assert model.normalization["method"] == ("scanpy" if form == "scanpy" else "given")
    stp.tl.predict(adata, model)
    assert "ceiling" not in stp.tl.evaluate(adata, metrics=["pearson"], baselines=False)
