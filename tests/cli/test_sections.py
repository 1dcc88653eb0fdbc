"""`stpredict fit` and `evaluate` on folders and tables of sections, which stay on disk; what they give is that in memory."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.cli import _objects
from stpredict.cli._main import main
from stpredict.cli._sections import open_sections
from stpredict.training import FittedModel

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def folder(sections: Path, tmp_path: Path) -> Path:
    """A file for each section; one has no features, one is not normalized."""
    adata = ad.read_h5ad(sections)
    for number, (name, path) in enumerate(stp.Cohort.divide(adata, tmp_path / "parts").paths.items()):
        part = ad.read_h5ad(path)
        if number == 0:
            del part.obsm["X_color-statistics"], part.uns["stpredict"]["X_color-statistics"]
        if number == 1:
            part.X = part.layers["counts"].copy()
            del part.uns["stpredict"]["normalize"], part.layers["counts"], part.obs["depth"]
        part.write_h5ad(path)
        assert name in part.obs["sample"].to_numpy()
    return tmp_path / "parts"


def stamps(folder: Path) -> list[int]:
    """When each file was written."""
    return [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]


def test_a_folder_is_fitted_and_scored_on_disk_as_in_memory(
    sections: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    adata = ad.read_h5ad(sections)
    wanted = stp.tl.fit(adata, "ridge", (adata.obs["patient"] != "P3").to_numpy(), features="color-statistics")
    stp.tl.predict(adata, wanted)
    table = stp.tl.evaluate(adata, metrics=["pearson", "rmse"])
    before = stamps(folder)
    monkeypatch.setattr(_objects, "read_objects", lambda _: pytest.fail("sections were joined in memory"))
    fit = ["fit", str(folder), "--features", "color-statistics", "--hold-out", "P3", "--out", str(tmp_path / "model")]
    assert main(fit) == 0
    said = capsys.readouterr().err
    assert "[1/3] P1_S1: computed X_color-statistics, " in said
    assert "[2/3] P2_S1: computed normalization, " in said
    assert "P3_S1" not in said
    fitted = FittedModel.load(tmp_path / "model")
    assert np.array_equal(fitted.network.weight.numpy(), wanted.network.weight.numpy())
    assert sorted(fitted.training.patients) == ["P1", "P2"]
    fit[-1] = str(tmp_path / "again")
    assert main(fit) == 0
    assert "computed" not in capsys.readouterr().err  # the copies of the first call
    call = ["evaluate", str(folder), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "scores.csv")]
    assert main([*call, "--metrics", "pearson", "rmse"]) == 0
    found, order = pd.read_csv(tmp_path / "scores.csv"), ["sample", "model", "gene"]
    for name in ("pearson", "rmse", "ceiling"):
        one, two = (each.sort_values(order)[name].to_numpy() for each in (found, table))
        assert np.allclose(one, two, rtol=1e-6, atol=1e-9, equal_nan=True)
    assert stamps(folder) == before
    assert main([*fit[:-1], str(tmp_path / "model"), "--hold-out", "P9"]) == 1
    assert "'P9'" in capsys.readouterr().err


def test_copies_follow_their_sections_and_go_where_they_are_wanted(folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    fit = ["fit", str(folder), "--features", "color-statistics", "--work", str(work), "--out"]
    assert main([*fit, str(tmp_path / "one")]) == 0
    assert sorted(path.name for path in work.iterdir() if path.suffix == ".h5ad") == ["P1_S1.h5ad", "P2_S1.h5ad"]
    first = {path.name: path.stat().st_mtime_ns for path in work.glob("*.h5ad")}
    part = ad.read_h5ad(folder / "P2_S1.h5ad")
    part.X = part.X * 2
    part.write_h5ad(folder / "P2_S1.h5ad")
    assert main([*fit, str(tmp_path / "two")]) == 0
    changed = [path.name for path in work.glob("*.h5ad") if path.stat().st_mtime_ns != first[path.name]]
    assert changed == ["P2_S1.h5ad"]


def test_a_table_names_sections_and_their_patients(sections: Path, tmp_path: Path) -> None:
    adata = ad.read_h5ad(sections)
    for name in ("P1_S1", "P2_S1"):
        part = adata[adata.obs["sample"] == name].copy()
        part.obs = part.obs.drop(columns=["sample", "patient"])
        part.write_h5ad(tmp_path / f"file {name}.h5ad")
    (tmp_path / "all.csv").write_text("path,sample,patient\nfile P1_S1.h5ad,P1_S1,Ann\nfile P2_S1.h5ad,P2_S1,Bea\n")
    found = open_sections([tmp_path / "all.csv"])
    assert isinstance(found, stp.Cohort)
    assert found.patients.to_dict() == {"P1_S1": "Ann", "P2_S1": "Bea"}
    both = open_sections([sections, sections])  # files of several sections are joined, as before
    assert isinstance(both, ad.AnnData)
    assert both.n_obs == 2 * adata.n_obs


def test_features_of_a_folder_are_a_file_for_each_section(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    call = ["features", str(folder), "--encoder", "color-statistics", "--out", str(tmp_path / "out")]
    assert main(call) == 0
    assert "[3/3] P3_S1: done, 36 observations" in capsys.readouterr().out
    assert main(call) == 0
    assert capsys.readouterr().out.count(": skipped, ") == 3
    made = stp.Cohort(tmp_path / "out")
    assert made.names == ["P1_S1", "P2_S1", "P3_S1"]
    assert all("X_color-statistics" in section.obsm for _, section in made.items())
