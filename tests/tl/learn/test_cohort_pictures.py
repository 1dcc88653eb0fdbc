"""Networks on pictures of a cohort on disk, whose sections are opened one at a time, learn what they learn in memory."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.core._file_rows import FileRows
from stpredict.tl.learn.inputs._patches import Patches
from stpredict.tl.learn.inputs._section_pictures import SectionPictures

NAME = "histogene"
HOW: dict[str, Any] = {"hyperparameters": "small", "training": {"max_epochs": 2}}


@pytest.fixture
def sections() -> ad.AnnData:
    adata = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_genes=6, n_spots=30)
    stp.pp.normalize(adata)
    assert all("hires" in entry["images"] for entry in adata.uns["spatial"].values())
    return adata


def on_disk(adata: ad.AnnData, folder: Path, form: str) -> stp.Cohort:
    if form != "spatialdata":
        return stp.Cohort.divide(adata, folder, form=form)  # type: ignore[arg-type]
    folder.mkdir()
    paths = {}
    for name in adata.obs["sample"].unique():
        part = adata[adata.obs["sample"] == name].copy()
        part.uns["spatial"] = {name: part.uns["spatial"][name]}
        paths[name] = folder / f"{name}.zarr"
        stp.io.to_spatialdata(part, full_resolution=True).write(paths[name])
    return stp.Cohort(paths)


def learned(model: Any) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in model.network.state_dict().values()]


@pytest.mark.parametrize("form", ["h5ad", "zarr", "spatialdata"])
def test_a_fit_is_that_in_memory(sections: ad.AnnData, tmp_path: Path, form: str) -> None:
    disk = on_disk(sections, tmp_path / "sections", form)
    train = (disk.obs["patient"] != "P3").to_numpy()
    one = stp.tl.fit(sections, NAME, train, baselines=False, **HOW)
    ahead = HOW["training"] | {"num_workers": 2}  # threads that read the files of the patches
    two = stp.tl.fit(disk, NAME, train, baselines=False, hyperparameters="small", training=ahead)
    assert all(map(np.array_equal, learned(one), learned(two)))
    stp.tl.predict(disk, two, progress=False)
    stp.tl.predict(sections, one, progress=False)
    for name in disk:
        found = stp.get.predicted(disk[name]).to_df()
        pd.testing.assert_frame_equal(found, stp.get.predicted(sections).to_df().loc[found.index])


def test_folds_are_those_in_memory(sections: ad.AnnData, tmp_path: Path) -> None:
    disk = on_disk(sections, tmp_path / "sections", "h5ad")
    models = {"network": {"model": NAME, **HOW}}
    both = [
        stp.tl.cross_validate(data, models, baselines=["mean"], metrics=["pearson", "rmse"], progress=False)
        for data in (sections, disk)
    ]
    order = ["sample", "model", "gene"]
    one, two = (pd.DataFrame(table).sort_values(order).reset_index(drop=True) for table in both)
    pd.testing.assert_frame_equal(one, two)


def test_pictures_in_files_of_their_own_and_given_ones(sections: ad.AnnData, tmp_path: Path) -> None:
    from PIL import Image

    given = {}
    for name, entry in sections.uns["spatial"].items():
        given[name] = tmp_path / f"{name}.png"
        Image.fromarray(np.asarray(entry["images"].pop("hires"))).save(given[name])
    bare = stp.Cohort.divide(sections, tmp_path / "bare")
    for name, path in given.items():
        sections.uns["spatial"][name]["metadata"] = {"source_image_path": str(path)}
    recorded = stp.Cohort.divide(sections, tmp_path / "recorded")
    one = stp.tl.fit(recorded, NAME, baselines=False, **HOW)
    two = stp.tl.fit(bare, NAME, baselines=False, image=given, **HOW)
    assert all(map(np.array_equal, learned(one), learned(two)))
    with pytest.raises(KeyError, match="expected a full-resolution image of section 'P1_S1'"):
        stp.tl.fit(bare, NAME, baselines=False, **HOW)


def test_one_picture_is_open_at_a_time_and_patches_stay_in_files(
    sections: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, found = [], []
    opened, read = SectionPictures.__getitem__, Patches.read

    def opening(self: Any, name: str) -> Any:
        events.append(("open", name))
        picture = opened(self, name)
        closing = picture.close

        def close() -> None:
            events.append(("close", name))
            closing()

        picture.close = close  # type: ignore[method-assign]
        return picture

    monkeypatch.setattr(SectionPictures, "__getitem__", opening)
    monkeypatch.setattr(Patches, "read", lambda self, source: found.append(read(self, source)) or found[-1])
    disk = on_disk(sections, tmp_path / "sections", "h5ad")
    stp.tl.fit(disk, NAME, baselines=False, **HOW)
    names = ["P1_S1", "P2_S1", "P3_S1"]
    assert events == [(what, name) for name in names for what in ("open", "close")]
    (stack,) = (each["patches"] for each in found)
    assert all(isinstance(part, FileRows) for part in stack.parts)
    packed = pickle.dumps(stack)
    assert len(packed) < stack[np.arange(len(stack))].nbytes / 20
    assert np.array_equal(pickle.loads(packed)[np.arange(9)], stack[np.arange(9)])


def test_patches_are_cut_ahead(sections: ad.AnnData, tmp_path: Path) -> None:
    disk = on_disk(sections, tmp_path / "sections", "h5ad")
    before = {name: path.stat().st_mtime_ns for name, path in disk.paths.items()}
    table = stp.pp.patches(disk, 112, 16, progress=False)
    pd.testing.assert_frame_equal(table, stp.pp.patches(sections, 112, 16, progress=False))
    assert before == {name: path.stat().st_mtime_ns for name, path in disk.paths.items()}
