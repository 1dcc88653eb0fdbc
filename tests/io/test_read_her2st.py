from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

import stpredict as stp


@pytest.fixture
def folder(write_her2st):
    return write_her2st()


@pytest.mark.parametrize("original", [False, True])
def test_both_layouts_give_the_same(write_her2st, original):
    root = write_her2st(original)
    adata = stp.io.read_her2st(root)
    assert adata.shape == (3 * 47, 4)
    assert list(adata.var_names) == ["ACTB", "CD74", "ERBB2", "GNAS"]
    assert adata.obs["sample"].value_counts().to_dict() == {"A1": 47, "A2": 47, "B10": 47}
    assert set(zip(adata.obs["sample"], adata.obs["patient"], strict=True)) == {("A1", "A"), ("A2", "A"), ("B10", "B")}
    assert adata.obs["measured"].all()
    assert adata.X.dtype == np.float32
    assert sparse.isspmatrix_csr(adata.layers["counts"])
    assert (adata.layers["counts"] != adata.X).nnz == 0
    if original:
        inner = stp.io.read_her2st(root / "data")
        assert (inner.X != adata.X).nnz == 0


def test_values_join_by_array_position(folder):
    adata = stp.io.read_her2st(folder, ["A2", "A1"])
    table = pd.read_csv(folder / "counts" / "A1.tsv.gz", sep="\t", index_col=0)
    mine = adata[[f"A1_{name}" for name in table.index], list(table.columns)]
    np.testing.assert_array_equal(mine.X.toarray(), table.to_numpy())
    x, y = np.array([name.split("x") for name in table.index], dtype=int).T
    np.testing.assert_array_equal(mine.obs["array_col"], x)
    np.testing.assert_array_equal(mine.obs["array_row"], y)
    np.testing.assert_allclose(mine.obsm["spatial"], np.column_stack([x, y]) * 20.0)
    absent = adata[adata.obs["sample"] == "A2", "ERBB2"].X
    assert absent.nnz == 0
    assert list(dict.fromkeys(adata.obs["sample"])) == ["A2", "A1"]


def test_labels_join_by_refined_position(folder):
    adata = stp.io.read_her2st(folder)
    labels = adata.obs["label"]
    assert isinstance(labels.dtype, pd.CategoricalDtype)
    assert labels[adata.obs["sample"] != "A2"].isna().all()
    mine = adata.obs[adata.obs["sample"] == "A2"]
    expected = np.where(mine["array_col"] < 6, "breast glands", "invasive cancer")
    assert (mine["label"].astype(str) == expected).all()


def test_spatial_entries(folder):
    adata = stp.io.read_her2st(folder, thumbnail_px=130)
    entry = adata.uns["spatial"]["A1"]
    assert entry["images"]["hires"].shape == (100, 130, 3)
    assert entry["images"]["hires"].dtype == np.uint8
    assert entry["scalefactors"]["tissue_hires_scalef"] == 0.5
    assert entry["scalefactors"]["microns_per_pixel"] == pytest.approx(10.0)
    assert entry["scalefactors"]["spot_diameter_fullres"] == pytest.approx(10.0)
    assert entry["metadata"]["source_image_path"].endswith("A1.jpg")
    without = adata.uns["spatial"]["A2"]
    assert without["images"] == {}
    assert without["metadata"] == {}
    assert without["scalefactors"]["microns_per_pixel"] == pytest.approx(10.0)
    assert adata.uns["stpredict"]["read"]["reader"] == "read_her2st"


def test_images_by_folder_and_by_section(folder, tmp_path):
    moved = tmp_path / "elsewhere"
    (folder / "images").rename(moved)
    assert stp.io.read_her2st(folder, "A1").uns["spatial"]["A1"]["images"] == {}
    for images in (moved, {"A1": moved / "A1.jpg"}):
        adata = stp.io.read_her2st(folder, "A1", images=images)
        assert "hires" in adata.uns["spatial"]["A1"]["images"]


def test_unselected_spots_are_left_out(folder):
    path = folder / "spots" / "A1_selection.tsv"
    table = pd.read_csv(path, sep="\t")
    table.loc[:9, "selected"] = 0
    table.to_csv(path, sep="\t", index=False)
    left_out = {f"A1_{x}x{y}" for x, y in table.loc[:9, ["x", "y"]].to_numpy()}
    assert not left_out & set(stp.io.read_her2st(folder, "A1").obs_names)


def test_gene_names_are_kept_as_they_are(folder):
    path = folder / "counts" / "B10.tsv"
    (folder / "counts" / "B10.tsv.gz").unlink()
    path.write_text("\tHLA.A\tHLA.A\n2x2\t1\t2\n")
    with pytest.raises(ValueError, match="unique genes"):
        stp.io.read_her2st(folder, "B10")
    path.write_text("NA\t1-Mar\n2x2\t1\t2\n3x3\t0\t1\n")
    adata = stp.io.read_her2st(folder, "B10")
    assert list(adata.var_names) == ["1-Mar", "NA"]
    assert adata["B10_2x2", "NA"].X.toarray() == 1


def test_h5ad_round_trip(folder, tmp_path):
    adata = stp.io.read_her2st(folder)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    assert (back.layers["counts"] != adata.layers["counts"]).nnz == 0
    np.testing.assert_array_equal(
        back.uns["spatial"]["A1"]["images"]["hires"], adata.uns["spatial"]["A1"]["images"]["hires"]
    )
    assert back.uns["spatial"]["A1"]["metadata"] == adata.uns["spatial"]["A1"]["metadata"]
    assert back.uns["spatial"]["A2"]["scalefactors"] == adata.uns["spatial"]["A2"]["scalefactors"]
    assert stp.io._image.section_image(back, back, "A1").width == 260


def test_missing_things(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        stp.io.read_her2st(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match="expected a folder 'counts' or 'ST-cnts'"):
        stp.io.read_her2st(folder / "images")
    with pytest.raises(FileNotFoundError, match="counts and spots of Z9"):
        stp.io.read_her2st(folder, ["A1", "Z9"])
    with pytest.raises(ValueError, match="unique sections"):
        stp.io.read_her2st(folder, ["A1", "A1"])
    with pytest.raises(FileNotFoundError, match="images"):
        stp.io.read_her2st(folder, images=tmp_path / "no")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("counts/B10.tsv.gz", b"", "empty or damaged"),
        ("counts/B10.tsv.gz", b"no gzip", "empty or damaged"),
        ("spots/B10_selection.tsv", b"", "empty or damaged"),
        ("spots/B10_selection.tsv", b"x\ty\n1\t2\n", "without pixel_x, pixel_y"),
        ("spots/B10_selection.tsv", b"x\ty\tpixel_x\tpixel_y\n2\t2\t5\t5\n", "found 1 spot"),
        ("spots/B10_selection.tsv", b"x\ty\tpixel_x\tpixel_y\n2\ta\t5\t5\n", "numbers in column 'y'"),
        (
            "spots/B10_selection.tsv",
            b"x\ty\tpixel_x\tpixel_y\n50\t50\t5\t5\n50\t51\t5\t9\n51\t50\t9\t5\n",
            "none in common",
        ),
        ("spots/B10_selection.tsv", b"x\ty\tpixel_x\tpixel_y\n2\t2\t5\t5\n2.2\t2\t5\t9\n3\t2\t9\t5\n", "unique spots"),
        ("labels/B10_labeled_coordinates.tsv", b"x\ty\tlabel\n2\t2\tcancer\n", "new_x and new_y|none at their"),
    ],
)
def test_damaged_files(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        stp.io.read_her2st(folder, "B10")


@pytest.mark.parametrize(
    ("value", "message"), [("1.5", "whole-number"), ("-1", "non-negative"), ("many", "numbers in")]
)
def test_bad_counts(folder, value, message):
    (folder / "counts" / "B10.tsv.gz").unlink()
    (folder / "counts" / "B10.tsv").write_text(f"\tACTB\n2x2\t1\n3x2\t{value}\n")
    with pytest.raises(ValueError, match=message):
        stp.io.read_her2st(folder, "B10")


def test_one_spot_needs_the_pixel_size(folder):
    (folder / "spots" / "B10_selection.tsv").write_text("x\ty\tpixel_x\tpixel_y\n2\t2\t5\t5\n")
    adata = stp.io.read_her2st(folder, "B10", microns_per_pixel=0.7)
    assert adata.n_obs == 1
    assert adata.uns["spatial"]["B10"]["scalefactors"]["spot_diameter_fullres"] == pytest.approx(100 / 0.7)


def test_damaged_and_too_small_images(folder):
    path = folder / "images" / "A1.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated or damaged"):
        stp.io.read_her2st(folder, "A1")
    Image.fromarray(np.zeros((100, 100, 3), dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match="outside"):
        stp.io.read_her2st(folder, "A1")


def test_several_images_of_one_section(write_her2st):
    root = write_her2st(original=True)
    folder = root / "data" / "ST-imgs" / "A" / "A1"
    (folder / "second.jpg").write_bytes((folder / "HE_slide.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"expected one image.*HE_slide\.jpg, second\.jpg"):
        stp.io.read_her2st(root)
    adata = stp.io.read_her2st(root, images={"A1": folder / "second.jpg"})
    assert "hires" in adata.uns["spatial"]["A1"]["images"]
