"""HEST-1k and HEST-Bench, from small files in their layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hest_files import GENES, SIDE, Mean, write_bench, write_hest, write_sample
from scipy import sparse

import stpredict as stp
from stpredict.slots._provenance import read_record


@pytest.fixture(autouse=True)
def _tried(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the process that tries every HDF5 file first, where no file is cut: it has tests of its own."""
    if "cut" not in request.node.name:
        for module in ("_read_hest", "_hest_files"):
            monkeypatch.setattr(f"stpredict.io.{module}.check_h5", lambda path: None)


@pytest.fixture
def encoder():
    return stp.encoders.get_encoder(Mean(), tile_px=SIDE, name="mean", device="cpu")


def test_samples_of_hest_1k(tmp_path) -> None:
    root = write_hest(tmp_path / "hest")
    adata = stp.io.read_hest(root, ["T2", "T1"])
    assert list(adata.obs["sample"].unique()) == ["T2", "T1"]
    # The first patient of one data set is not that of another.
    assert adata.obs.groupby("sample", observed=True)["patient"].first().to_dict() == {
        "T1": "Patient 1 (Breast, first series)", "T2": "Patient 1 (Kidney)",
    }  # fmt: skip
    entry = adata.uns["spatial"]["T1"]
    assert entry["scalefactors"]["microns_per_pixel"] == 0.25
    assert entry["scalefactors"]["spot_diameter_fullres"] == pytest.approx(55 / 0.25)
    assert entry["metadata"]["source_image_path"] == str(root / "wsis" / "T1.tif")
    assert entry["metadata"]["organ"] == "Breast"
    assert "organ" not in adata.uns["spatial"]["T2"]["metadata"]  # NaN in the file
    assert entry["images"]["hires"].shape == (60, 60, 3)
    raw = ad.read_h5ad(root / "st" / "T1.h5ad")
    mine = adata[adata.obs["sample"] == "T1"]
    np.testing.assert_array_equal(mine.obsm["spatial"], raw.obsm["spatial"])
    np.testing.assert_array_equal(mine[:, GENES].layers["counts"].toarray(), raw[:, GENES].X.toarray())
    assert mine.obs_names[0] == f"T1_{raw.obs_names[0]}"
    assert "ONLY_T1" not in adata.var_names  # it is not zero in T2, which did not measure it
    assert "ONLY_T1" in stp.io.read_hest(root, "T1").var_names
    stp.pp.image_features(adata[adata.obs["sample"] == "T1"].copy(), tile_um=20, cache=False)


def test_table_of_all_samples_instead_of_files(tmp_path) -> None:
    root = write_hest(tmp_path / "hest")
    shutil.rmtree(root / "metadata")
    rows = {"id": ["T1", "T2"], "patient": ["7", np.nan], "dataset_title": "A", "pixel_size_um_estimated": [0.3, 0.4]}
    pd.DataFrame(rows).to_csv(root / "HEST_v1_1_0.csv", index=False)
    adata = stp.io.read_hest(root)
    assert adata.obs.groupby("sample", observed=True)["patient"].first().dropna().to_dict() == {"T1": "7 (A)"}
    assert adata.uns["spatial"]["T2"]["scalefactors"]["microns_per_pixel"] == 0.4
    named = stp.io.read_hest(root, patient={"T1": "a", "T2": "b"})
    assert set(named.obs["patient"]) == {"a", "b"}
    assert set(stp.io.read_hest(root, patient=str.lower).obs["patient"]) == {"t1", "t2"}
    with pytest.raises(KeyError, match="missing T2"):
        stp.io.read_hest(root, patient={"T1": "a"})
    moved = tmp_path / "elsewhere.csv"
    (root / "HEST_v1_1_0.csv").rename(moved)
    assert stp.io.read_hest(root, "T1", metadata=moved).obs["patient"].iloc[0] == "7 (A)"
    write_sample(root / "st" / "T9.h5ad", root / "patches" / "T9.h5", 9)
    with pytest.raises(FileNotFoundError, match="expected metadata of 'T9'"):
        stp.io.read_hest(root, "T9", metadata=moved)


def test_features_of_the_stored_patches(tmp_path, encoder) -> None:
    root = write_hest(tmp_path / "hest")
    adata = stp.io.read_hest(root, ["T1"], encoder=encoder, batch_size=7)
    with h5py.File(root / "patches" / "T1.h5") as file:
        names, pixels = file["barcode"][:, 0].astype(str), file["img"][:]
    assert list(adata.obs_names) == [f"T1_{name}" for name in names]  # in their order, without spots that have none
    assert adata.n_obs < ad.read_h5ad(root / "st" / "T1.h5ad").n_obs
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor(encoder.mean)[:, None, None], torch.tensor(encoder.std)[:, None, None]
    expected = Mean()((scaled - mean) / std)
    np.testing.assert_allclose(adata.obsm["X_mean"], expected, rtol=1e-4, atol=1e-5)
    record = read_record(adata, "X_mean")
    assert (record["tile_um"], record["dim"], record["microns_per_pixel"]) == (SIDE / 2, 3, {"T1": 0.25})
    raw = ad.read_h5ad(root / "st" / "T1.h5ad")[names]
    np.testing.assert_array_equal(adata.obsm["spatial"], raw.obsm["spatial"])
    np.testing.assert_array_equal(adata[:, GENES].layers["counts"].toarray(), raw[:, GENES].X.toarray())


def test_spots_beside_the_slide_are_left_out(tmp_path, encoder) -> None:
    root = write_hest(tmp_path / "hest")
    table = ad.read_h5ad(root / "st" / "T1.h5ad")
    table.obsm["spatial"][4] = (5, 1205)
    table.write_h5ad(root / "st" / "T1.h5ad")
    with pytest.warns(UserWarning, match="1 of 30 spots of 'T1' lie outside its slide"):
        adata = stp.io.read_hest(root, "T1")
    assert list(adata.obs_names) == [f"T1_{name}" for name in np.delete(table.obs_names.to_numpy(), 4)]
    table.obsm["spatial"] += 1000
    table.write_h5ad(root / "st" / "T1.h5ad")
    with pytest.raises(ValueError, match="expected the spots of section 'T1' inside the image"):
        stp.io.read_hest(root, "T1")


def test_a_task_of_hest_bench(tmp_path, encoder) -> None:
    task = write_bench(tmp_path / "bench" / "IDC")
    adata = stp.io.read_hest(task, encoder=encoder, patient=lambda name: name[0])
    assert int(adata.var["var_50genes"].sum()) == 4
    assert adata.obs["split_1"].isna().sum() == (adata.obs["sample"] == "C").sum()
    # The µm per pixel follow from how far a patch reaches around its spot.
    assert adata.uns["spatial"]["A"]["scalefactors"]["microns_per_pixel"] == pytest.approx(0.25, rel=0.05)
    folds = stp.cohorts.recorded_folds(adata)
    assert [fold.name for fold in folds] == ["split_0", "split_1"]
    assert set(adata.obs["sample"][folds[0].test]) == {"B"}
    assert set(adata.obs["sample"][folds[0].train]) == {"A", "C"}
    assert not any(fold.leaky for fold in folds)
    stp.pp.normalize(adata)
    scores = stp.tl.cross_validate(
        adata, ["ridge"], folds, target="var_50genes", metrics=["pearson"], baselines=False, ceiling=False
    )
    assert set(scores["gene"]) == set(adata.var_names[adata.var["var_50genes"]])
    adata.obs["patient"] = "one"
    assert all(fold.leaky for fold in stp.cohorts.recorded_folds(adata))
    only = stp.io.read_hest(task, ["A", "C"])
    assert not [name for name in only.obs if name.startswith("split_")]
    with pytest.raises(KeyError, match="expected columns split_0"):
        stp.cohorts.recorded_folds(only)


def test_folds_of_other_columns_are_checked(toy) -> None:
    toy.obs["mine"] = ["train" if name == "p0" else "test" for name in toy.obs["patient"]]
    (fold,) = stp.cohorts.recorded_folds(toy, ["mine"])
    assert int(fold.train.sum()) == 24
    toy.obs["mine"] = "train"
    with pytest.raises(ValueError, match="found 72 for training and 0 for test"):
        stp.cohorts.recorded_folds(toy, ["mine"])
    toy.obs["mine"] = "Train"
    with pytest.raises(ValueError, match="found 'Train'"):
        stp.cohorts.recorded_folds(toy, ["mine"])


@pytest.mark.parametrize("order", [[0, 1], [1, 0]], ids=["x before y", "y before x"])
def test_places_of_the_centers_of_patches_tell_no_scale(tmp_path, encoder, order) -> None:
    """Files of earlier releases hold the centers, row before column, where later ones hold corners."""
    task = write_bench(tmp_path / "bench" / "IDC")
    for path in (task / "patches").glob("*.h5"):
        table = ad.read_h5ad(task / "adata" / f"{path.stem}.h5ad")
        with h5py.File(path, "r+") as file:
            names = [name.decode() for name in file["barcode"][:, 0]]
            file["coords"][:] = table.obsm["spatial"][table.obs_names.get_indexer(names)][:, order]
    with pytest.raises(ValueError, match="expected the µm per pixel of 'A'"):
        stp.io.read_hest(task, patient=lambda name: name[0])
    adata = stp.io.read_hest(task, encoder=encoder, patient=lambda name: name[0], microns_per_pixel=0.25)
    (record,) = (entry for key, entry in adata.uns["stpredict"].items() if key.startswith("X_"))
    assert record["tile_um"] == SIDE / 2


def _without_scale(root: Path) -> None:
    shutil.rmtree(root / "metadata")
    shutil.rmtree(root / "patches")


def _edit(name: str, change) -> object:
    def edit(root: Path) -> None:
        with h5py.File(root / name, "r+") as file:
            change(file)

    return edit


def _other_barcodes(file: h5py.File) -> None:
    file["barcode"][:] = np.array([[f"other{i}".encode()] for i in range(len(file["barcode"]))])


def _fractions(root: Path) -> None:
    table = ad.read_h5ad(root / "st" / "T1.h5ad")
    table.X = sparse.csr_matrix(table.X.toarray() + 0.5)
    table.write_h5ad(root / "st" / "T1.h5ad")


def _cut(name: str) -> object:
    def cut(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 3])

    return cut


def _replaced(name: str, text: str) -> object:
    return lambda root: (root / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda root: shutil.rmtree(root / "st"), FileNotFoundError, r"expected a folder 'st' .* found metadata, patches"),
        (lambda root: (root / "st" / "T1.h5ad").unlink(), FileNotFoundError, r"expected T1\.h5ad in .*; found T2"),
        (_without_scale, ValueError, r"expected the µm per pixel of 'T1' .*metadata=.*microns_per_pixel="),
        (_replaced("metadata/T1.json", "[1"), ValueError, r"expected JSON in .*T1\.json"),
        (_replaced("metadata/T1.json", '{"pixel_size_um_estimated": Infinity}'), ValueError, "Infinity, which is no number"),
        (_replaced("metadata/T1.json", '{"pixel_size_um_estimated": -1}'), ValueError, "positive number; found -1"),
        (_edit("patches/T1.h5", _other_barcodes), ValueError, r"expected patches of T1\.h5 among those with a spot"),
        (_edit("patches/T1.h5", lambda f: f.__delitem__("img")), ValueError, r"expected img, barcode and coords .*without img"),
        (_edit("st/T1.h5ad", lambda f: f["obsm"].__delitem__("spatial")), ValueError, r"positions in obsm\['spatial'\]"),
        (_fractions, ValueError, r"expected whole-number counts of section 'T1'"),
    ],
)  # fmt: skip
def test_damaged_folders_are_named(tmp_path, encoder, damage, error, message) -> None:
    root = write_hest(tmp_path / "hest", slides=False)
    damage(root)
    with pytest.raises(error, match=message):
        stp.io.read_hest(root, ["T1"], encoder=None if damage is _without_scale else encoder)


@pytest.mark.parametrize("name", ["st/T1.h5ad", "patches/T1.h5"])
def test_files_that_are_cut_are_named(tmp_path, encoder, name) -> None:
    root = write_hest(tmp_path / "hest", slides=False)
    _cut(name)(root)
    with pytest.raises(ValueError, match=rf"expected an HDF5 file at .*{name}; found a damaged one"):
        stp.io.read_hest(root, ["T1"], encoder=encoder)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda root: (root / "splits" / "test_1.csv").unlink(), FileNotFoundError, r"expected test_1\.csv"),
        (_replaced("splits/test_0.csv", "sample_id\nA\n"), ValueError, "other samples for test .*found A"),
        (_replaced("splits/test_0.csv", "name\nA\n"), ValueError, r"expected the columns sample_id in .*test_0\.csv"),
        (_replaced("var_50genes.json", '{"genes": ["G0", "NONE"]}'), ValueError, r"found no NONE"),
        (_replaced("var_50genes.json", '{"genes": "G0"}'), ValueError, r"expected a list of names under 'genes'"),
    ],
)
def test_damaged_tasks_are_named(tmp_path, damage, error, message) -> None:
    task = write_bench(tmp_path / "IDC")
    damage(task)
    with pytest.raises(error, match=message):
        stp.io.read_hest(task)


def test_gaps_are_read_only_where_they_are_expected(tmp_path) -> None:
    from stpredict.core._files import read_json

    path = tmp_path / "a.json"
    path.write_text(json.dumps({"organ": float("nan"), "n": 1}))
    assert read_json(path, "metadata", gaps=True) == {"organ": None, "n": 1}
    with pytest.raises(ValueError, match="NaN, which is no number"):
        read_json(path, "metadata")
