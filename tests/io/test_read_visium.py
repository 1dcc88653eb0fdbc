from __future__ import annotations

import gzip
import json
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import io as sio
from scipy import sparse

import stpredict as stp

GENES = ["ERBB2", "GNAS", "GNAS", "ACTB"]
PITCH = 10.0
POSITIONS = ["tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet"]


def positions() -> pd.DataFrame:
    row, step = np.mgrid[:8, :6].reshape(2, -1)
    col = 2 * step + row % 2
    return pd.DataFrame(
        {
            "barcode": [f"BC{i:02d}-1" for i in range(len(row))],
            "in_tissue": (np.arange(len(row)) % 4 > 0).astype(int),
            "array_row": row,
            "array_col": col,
            "pxl_row_in_fullres": 20 + row * PITCH * np.sqrt(3) / 2,
            "pxl_col_in_fullres": 40 + col * PITCH / 2,
        }
    )


def matrix() -> sparse.csr_matrix:
    return sparse.csr_matrix(np.random.default_rng(0).poisson(1, (48, 4)))


def write_h5(path: Path, barcodes: list[str], counts: sparse.csr_matrix, genomes: list[str] | None = None) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["data"], group["indices"], group["indptr"] = counts.data.astype(np.int32), counts.indices, counts.indptr
        group["shape"] = np.array(counts.shape[::-1])
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(4)], dtype="S")
        features["name"] = np.array(GENES, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * 4, dtype="S")
        features["genome"] = np.array(genomes or ["GRCh38"] * 4, dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


def write_mtx(folder: Path, barcodes: list[str], counts: sparse.csr_matrix) -> None:
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as handle:
        sio.mmwrite(handle, counts.T.tocoo())
    with gzip.open(folder / "features.tsv.gz", "wt") as handle:
        handle.writelines(f"ENSG{i}\t{name}\tGene Expression\n" for i, name in enumerate(GENES))
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as handle:
        handle.writelines(f"{name}\n" for name in barcodes)


@pytest.fixture
def write(tmp_path):
    def write(
        kind: str = "h5", table: str = "tissue_positions.csv", images: tuple[str, ...] = ("hires", "lowres")
    ) -> Path:
        root = tmp_path / "V1"
        (root / "spatial").mkdir(parents=True)
        spots = positions()
        order = np.random.default_rng(1).permutation(48)
        if kind == "h5":
            write_h5(root / "filtered_feature_bc_matrix.h5", list(spots["barcode"].iloc[order]), matrix()[order])
        else:
            write_mtx(root / "filtered_feature_bc_matrix", list(spots["barcode"].iloc[order]), matrix()[order])
        path = root / "spatial" / table
        if path.suffix == ".parquet":
            spots.to_parquet(path)
        else:
            spots.to_csv(path, index=False, header=table != "tissue_positions_list.csv")
        factors = {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.15, "spot_diameter_fullres": 6.5}
        (root / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
        for name in images:
            pixels = np.full((60 if name == "hires" else 18, 90, 3), 200, dtype=np.uint8)
            Image.fromarray(pixels).save(root / "spatial" / f"tissue_{name}_image.png")
        return root

    return write


@pytest.fixture
def slide(tmp_path) -> Path:
    pixels = np.full((120, 180, 3), 230, dtype=np.uint8)
    pixels[10:90, 30:110] = 100
    Image.fromarray(pixels).save(tmp_path / "he.png")
    return tmp_path / "he.png"


@pytest.mark.parametrize("kind", ["h5", "mtx"])
@pytest.mark.parametrize("table", POSITIONS)
def test_versions_give_the_same(write, kind, table):
    adata = stp.io.read_visium(write(kind, table), patient="P1")
    spots = positions().set_index("barcode")
    inside = spots.index[spots["in_tissue"] == 1]
    assert set(adata.obs_names) == set(inside)
    assert list(adata.var_names) == ["ERBB2", "GNAS", "GNAS-1", "ACTB"]
    assert list(adata.var["gene_ids"]) == ["ENSG0", "ENSG1", "ENSG2", "ENSG3"]
    mine = spots.loc[adata.obs_names]
    np.testing.assert_allclose(adata.obsm["spatial"], mine[["pxl_col_in_fullres", "pxl_row_in_fullres"]])
    np.testing.assert_array_equal(adata.obs["array_col"], mine["array_col"])
    expected = pd.DataFrame(matrix().toarray(), index=spots.index).loc[adata.obs_names]
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), expected)
    assert adata.X.dtype == np.float32
    assert (adata.obs["sample"] == "V1").all()
    assert (adata.obs["patient"] == "P1").all()
    factors = adata.uns["spatial"]["V1"]["scalefactors"]
    assert factors["microns_per_pixel"] == pytest.approx(10.0)
    assert factors["spot_diameter_fullres"] == 6.5


def test_all_spots_and_no_patient(write):
    adata = stp.io.read_visium(write(), "S", in_tissue_only=False)
    assert adata.n_obs == 48
    assert "patient" not in adata.obs
    assert list(adata.uns["spatial"]) == ["S"]


@pytest.mark.parametrize("images", [(), ("lowres",), ("hires",), ("hires", "lowres")])
def test_missing_images(write, images):
    assert set(stp.io.read_visium(write(images=images)).uns["spatial"]["V1"]["images"]) == set(images)


def test_full_resolution_image(write, slide, tmp_path):
    root = write(images=("lowres",))
    adata = stp.io.read_visium(root, image=slide, thumbnail_px=90)
    entry = adata.uns["spatial"]["V1"]
    assert entry["metadata"]["source_image_path"] == str(slide)
    assert entry["images"]["hires"].shape == (60, 90, 3)
    assert entry["scalefactors"]["tissue_hires_scalef"] == 0.5
    Image.fromarray(np.zeros((50, 50, 3), dtype=np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match="outside"):
        stp.io.read_visium(root, image=tmp_path / "small.png")
    with pytest.raises(FileNotFoundError, match="no file"):
        stp.io.read_visium(root, image=tmp_path / "none.png")


def test_folder_above_outs(write, tmp_path):
    root = write()
    (tmp_path / "run").mkdir()
    root.rename(tmp_path / "run" / "outs")
    for path in (tmp_path / "run", tmp_path / "run" / "outs"):
        assert list(stp.io.read_visium(path).uns["spatial"]) == ["run"]


def test_given_count_file_and_genome(write):
    root = write()
    names = list(positions()["barcode"])
    write_h5(root / "two.h5", names, matrix(), ["GRCh38", "GRCh38", "mm10", "mm10"])
    adata = stp.io.read_visium(root, count_file="two.h5", genome="mm10")
    assert list(adata.var_names) == ["GNAS", "ACTB"]
    with pytest.raises(FileNotFoundError, match="none.h5"):
        stp.io.read_visium(root, count_file="none.h5")


def test_bins_of_visium_hd(write):
    root = write()
    row, col = np.mgrid[:6, :8].reshape(2, -1)
    spots = positions().assign(
        array_row=row, array_col=col, pxl_row_in_fullres=20.0 + 16 * row, pxl_col_in_fullres=30.0 + 16 * col
    )
    spots.to_csv(root / "spatial" / "tissue_positions.csv", index=False)
    path = root / "spatial" / "scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bin_size_um": 8.0}))
    adata = stp.io.read_visium(root)
    assert adata.uns["spatial"]["V1"]["scalefactors"]["microns_per_pixel"] == pytest.approx(0.5)
    assert adata.uns["stpredict"]["read"]["lattice"] == "square"


def test_h5ad_round_trip(write, tmp_path):
    adata = stp.io.read_visium(write(), patient="P1")
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(back.obs, adata.obs)
    pd.testing.assert_frame_equal(back.var, adata.var)
    assert (back.X != adata.X).nnz == 0
    assert back.uns["spatial"]["V1"]["scalefactors"] == adata.uns["spatial"]["V1"]["scalefactors"]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("spatial/tissue_positions.csv", "expected tissue_positions.parquet, tissue_positions.csv"),
        ("spatial/scalefactors_json.json", "expected scale factors"),
        ("filtered_feature_bc_matrix.h5", "pass `count_file=`"),
    ],
)
def test_missing_files(write, missing, message):
    root = write()
    (root / missing).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        stp.io.read_visium(root)


def test_missing_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        stp.io.read_visium(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match="Space Ranger's output folder"):
        stp.io.read_visium(tmp_path)


def test_damaged_tables(write):
    root = write()
    path = root / "spatial" / "tissue_positions.csv"
    text = path.read_text()
    for content, message in [
        ("", "empty file"),
        (text.replace("array_row", "row"), "without array_row"),
        (text.replace("BC01-1", "BC00-1"), "unique barcodes"),
        (text.replace("BC03-1,1", "BC03-1,"), "text or gaps"),
        (text.replace("BC", "XX"), "found none: BC"),
        (text.replace("-1,1,", "-1,0,"), "in_tissue_only=False"),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            stp.io.read_visium(root)
    path.write_text(text)
    (root / "spatial" / "scalefactors_json.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        stp.io.read_visium(root)


def test_genome_of_a_folder(write):
    with pytest.raises(ValueError, match="expected an h5 file"):
        stp.io.read_visium(write("mtx"), genome="GRCh38")
