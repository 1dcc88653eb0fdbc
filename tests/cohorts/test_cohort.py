"""Cohorts on disk: how they are opened, what they refuse, and that calls on them are whole, or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.cohorts import _calls, _section_files
from stpredict.core import _atomic
from stpredict.core._file_rows import FileSparseRows, rows_in_file


@pytest.fixture
def disk(toy: ad.AnnData, tmp_path: Path) -> stp.Cohort:
    """The six sections of `toy`, each in an h5ad."""
    return stp.Cohort.divide(toy, tmp_path / "sections")


def counted(section: ad.AnnData) -> None:
    """Count the calls on a section."""
    section.uns["calls"] = section.uns.get("calls", 0) + 1


def added(section: ad.AnnData, number: int) -> None:
    """Write a number."""
    section.uns["numbers"] = [*section.uns.get("numbers", []), number]


def test_sources_name_the_same_sections(disk: stp.Cohort, toy: ad.AnnData, tmp_path: Path) -> None:
    folder = tmp_path / "sections"
    table = pd.DataFrame(
        {"path": [p.name for p in disk.paths.values()], "sample": disk.names, "patient": disk.patients}
    )
    table.to_csv(folder / "cohort.csv", index=False)
    table.to_csv(folder / "cohort.tsv", index=False, sep="\t")
    paths = list(disk.paths.values())
    mapping = dict(zip(disk.names, paths, strict=True))
    sources: list[Any] = [folder, str(folder), folder / "cohort.csv", folder / "cohort.tsv", paths, mapping]
    sources.append(table.assign(path=[str(path) for path in paths]))
    for source in sources:
        found = stp.Cohort(source)
        assert found.names == disk.names == sorted(toy.obs["sample"].unique())
        assert found.patients.tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
        assert (found.n_obs, len(found), list(found)) == (72, 6, disk.names)
    assert repr(disk) == "Cohort of 6 sections of 3 patients, 72 observations"
    part = disk[["s4", "s1"]]
    assert (part.names, part.n_obs, "s0" in part) == (["s4", "s1"], 24, False)
    assert disk[disk.patients == "p1"].names == ["s2", "s3"]
    section = disk["s1"]
    assert np.array_equal(section.X, toy[toy.obs["sample"] == "s1"].X)


def test_names_and_patients_that_files_lack(toy: ad.AnnData, tmp_path: Path) -> None:
    for name in ("s0", "s2"):
        part = toy[toy.obs["sample"] == name].copy()
        part.obs = part.obs.drop(columns=["sample", "patient"])
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    with pytest.raises(ValueError, match=r"the patient of section 's0'.*none in .*s0.h5ad; pass patients="):
        stp.Cohort(tmp_path)
    cohort = stp.Cohort(tmp_path, patients={"s0": "a", "s2": "b"})
    assert cohort["s2"].obs[["sample", "patient"]].iloc[0].tolist() == ["s2", "b"]
    assert cohort.table().obs["patient"].unique().tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="expected sections of the cohort in `patients`; found s9"):
        stp.Cohort(tmp_path, patients={"s0": "a", "s2": "b", "s9": "c"})


def test_what_is_refused(disk: stp.Cohort, toy: ad.AnnData, tmp_path: Path) -> None:
    folder, paths = tmp_path / "sections", {name: str(path) for name, path in disk.paths.items()}
    rows = pd.DataFrame({"path": paths.values(), "sample": disk.names, "patient": disk.patients.to_numpy()})
    with pytest.raises(FileNotFoundError, match=r"row 1 of the table \('s1'\); found nothing at .*gone.h5ad"):
        stp.Cohort(rows.assign(path=[paths["s0"], str(folder / "gone.h5ad"), *rows["path"][2:]]))
    with pytest.raises(ValueError, match=r"expected a patient in row 2 of the table \('s2'\); found none"):
        stp.Cohort(rows.assign(patient=["p0", "p0", None, "p1", "p2", "p2"]))
    with pytest.raises(ValueError, match="found 'p0' in .*s0.h5ad, and 'px'"):
        stp.Cohort(rows.assign(patient=["px", *rows["patient"][1:]]))
    with pytest.raises(KeyError, match="expected columns path, sample and patient in the table; found"):
        stp.Cohort(rows.drop(columns="path"))
    with pytest.raises(ValueError, match=r"sections of different names; found s0 more than once"):
        stp.Cohort([paths["s0"], paths["s0"]])
    toy.write_h5ad(tmp_path / "all.h5ad")
    with pytest.raises(ValueError, match=r"one name of the section .*found s0, s1.*stp.Cohort.divide"):
        stp.Cohort([tmp_path / "all.h5ad"])
    with pytest.raises(ValueError, match="of a single section, pass a list"):
        stp.Cohort(paths["s0"])
    (tmp_path / "text.h5ad").write_text("nothing")
    with pytest.raises(OSError, match="a section that can be read as entry 0; found"):
        stp.Cohort([tmp_path / "text.h5ad"])
    with pytest.raises(TypeError, match="found int"):
        stp.Cohort(3)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least one section; found none"):
        stp.Cohort(tmp_path / "empty")
    with pytest.raises(FileExistsError, match="without these sections"):
        stp.Cohort.divide(toy, folder)
    with pytest.raises(KeyError, match="a section of the cohort; found 's9'"):
        disk["s9"]
    with pytest.raises(TypeError, match="found a Cohort, which this function does not take; call it on every section"):
        stp.tl.domains(disk)


def test_other_genes_are_named(disk: stp.Cohort) -> None:
    disk["s1"][:, ["G0", "G1", "G2"]].copy().write_h5ad(disk.paths["s1"])
    with pytest.raises(
        ValueError, match=r"the same genes in every section; found 3 of 's0' missing in 's1' \(G3, G4, G5\)"
    ):
        disk.table()


@pytest.mark.parametrize(("form", "sparse"), [("h5ad", False), ("h5ad", True), ("zarr", True)])
def test_table_is_the_object_in_memory(
    toy: ad.AnnData, tmp_path: Path, form: Any, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the files and the size of the blocks, and where sections have their genes in another order."""
    from scipy.sparse import csc_matrix, csr_matrix

    monkeypatch.setattr(stp.settings, "memory", 2**20)
    toy = toy[toy.obs["sample"].isin(["s1", "s3"])].copy()
    toy.layers["counts"] = csr_matrix(toy.layers["counts"]) if sparse else toy.layers["counts"]
    disk = stp.Cohort.divide(toy, tmp_path / "sections", form=form)
    other = disk["s3"][:, ["G3", "G1", "G2", "G0", "G5", "G4"]].copy()
    if sparse:
        other.layers["counts"] = csc_matrix(other.layers["counts"])
    _section_files.write_section(other, disk.paths["s3"], "table")
    table = disk.table()
    assert table is disk.table()
    expected = disk.to_adata()
    assert table.obs_names.equals(expected.obs_names)
    assert table.var_names.equals(expected.var_names)
    assert np.array_equal(table.X, toy.X)
    assert np.array_equal(expected.X, toy.X)
    assert table.obs[["sample", "patient"]].astype(str).equals(toy.obs[["sample", "patient"]].astype(str))
    assert np.array_equal(table.obsm["X_toy"], toy.obsm["X_toy"])
    assert table.uns["stpredict"]["normalize"].keys() == toy.uns["stpredict"]["normalize"].keys()
    source = rows_in_file(table.layers["counts"])
    assert source is not None
    assert isinstance(source, FileSparseRows) == sparse
    for index in (np.array([22, 3, 3, 14]), slice(5, 21), toy.obs["sample"].to_numpy() == "s3"):
        found, wanted = source[index], toy.layers["counts"][index]
        assert np.array_equal(found.toarray() if sparse else found, wanted.toarray() if sparse else wanted)


def test_table_follows_the_files(disk: stp.Cohort) -> None:
    before = disk.table()
    section = disk["s0"]
    section.X = section.X + 1
    _section_files.write_section(section, disk.paths["s0"], "table")
    after = disk.table()
    assert np.allclose(after.X[:12], before.X[:12] + 1)
    assert np.array_equal(after.X[12:], before.X[12:])
    folders = [
        path for path in (stp.settings.cache_dir / "cohorts" / "tables").iterdir() if not path.name.startswith(".")
    ]
    assert str(folders).count(Path(after.X.filename).parent.name) == 1


def test_spatialdata_keeps_everything_but_its_table(tmp_path: Path) -> None:
    adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_spots=16, n_genes=5)
    sdata = stp.io.to_spatialdata(adata)
    sdata.write(tmp_path / "one.zarr")
    cohort = stp.Cohort(tmp_path)
    assert cohort.patients.to_dict() == {"P1_S1": "P1"}
    picture = np.asarray(cohort["P1_S1"].images["P1_S1_image"])
    stp.pp.normalize(cohort)
    again = cohort["P1_S1"]
    stp.pp.normalize(adata)
    assert np.allclose(again["table"].X, adata.X)
    assert np.array_equal(np.asarray(again.images["P1_S1_image"]), picture)
    assert "P1_S1_spots" in again.shapes
    assert np.array_equal(cohort.table().X, again["table"].X)


def test_calls_go_on_where_they_stopped(disk: stp.Cohort) -> None:
    done: list[str] = []

    def failing(section: ad.AnnData) -> None:
        counted(section)
        done.append(str(section.obs["sample"].iloc[0]))
        if len(done) == 4:
            raise RuntimeError("stop")

    failing.__qualname__ = counted.__qualname__  # one that is known by a name
    with pytest.raises(RuntimeError, match="stop"):
        disk.map(failing)
    assert done == ["s0", "s1", "s2", "s3"]
    assert "calls" not in disk["s3"].uns
    disk.map(counted)
    assert [section.uns["calls"] for _, section in disk.items()] == [1] * 6
    disk.map(counted, resume=False)
    disk[["s0"]].map(counted)
    assert [section.uns["calls"] for _, section in disk.items()] == [2] * 6


def test_another_call_undoes_what_came_after(disk: stp.Cohort) -> None:
    cohort = disk[["s0"]]
    for number in (1, 1, 2, 2, 1):
        cohort.map(added, number)
        cohort.map(counted)
    assert cohort["s0"].uns["numbers"].tolist() == [1, 2, 1]
    assert cohort["s0"].uns["calls"] == 3
    section = cohort["s0"]  # changed by somebody else: nobody knows what holds
    section.uns["calls"] = 10
    section.write_h5ad(cohort.paths["s0"])
    cohort.map(counted)
    assert cohort["s0"].uns["calls"] == 11


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_killed_while_a_section_is_replaced(
    toy: ad.AnnData, tmp_path: Path, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every exchange of files: the section is as before or as after, and the next call does it once."""
    for stop in (1, 2, 3):
        small = ad.AnnData(obs=toy.obs.iloc[:2][["sample", "patient"]])
        cohort = stp.Cohort.divide(small, tmp_path / str(stop), form=form)
        seen: list[Any] = []

        def dying(*args: Any, seen: list[Any] = seen, stop: int = stop) -> None:
            seen.append(args)
            if len(seen) == stop:
                raise KeyboardInterrupt
            os.replace(*args)

        with monkeypatch.context() as patched:
            for module in (_atomic, _calls, _section_files):
                patched.setattr(module, "os", SimpleNamespace(replace=dying))
            with contextlib.suppress(KeyboardInterrupt):
                cohort.map(counted)
        assert int(cohort["s0"].uns.get("calls", 0)) in {0, 1}
        cohort.map(counted)
        assert cohort["s0"].uns["calls"] == 1
        assert [path.name for path in (tmp_path / str(stop)).iterdir()] == [f"s0.{form}"]


def test_functions_that_return_leave_files_alone(disk: stp.Cohort) -> None:
    before = {name: path.stat().st_mtime_ns for name, path in disk.paths.items()}
    found = disk.map(lambda section: section.n_obs)
    assert found == dict.fromkeys(disk.names, 12)
    assert {name: path.stat().st_mtime_ns for name, path in disk.paths.items()} == before


def test_preprocessing_of_files_is_that_in_memory(cohort: ad.AnnData, tmp_path: Path) -> None:
    cohort = cohort[cohort.obs["sample"].isin(["P1_S1", "P2_S1"])].copy()
    cohort.X = cohort.layers["counts"].copy()
    del cohort.uns["stpredict"], cohort.obsm["X_color-texture"]
    disk = stp.Cohort.divide(cohort, tmp_path / "sections").write(tmp_path / "copies")
    for data in (cohort, disk):
        stp.pp.normalize(data)
        stp.pp.image_features(data)
    table = disk.table()
    assert np.array_equal(table.X, cohort.X)
    assert np.array_equal(table.obsm["X_color-texture"], cohort.obsm["X_color-texture"])
    with pytest.raises(ValueError, match="expected copy=False for a cohort"):
        stp.pp.normalize(disk, copy=True)
