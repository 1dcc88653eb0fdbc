"""`stpredict predict` with a model of an outcome gives a table of slides, each predicted by itself."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.cli._main import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def a_map(name: str, patient: str, shift: float, shape: tuple[int, int] = (6, 5)) -> ad.AnnData:
    """A map of two genes, the first of which is the response."""
    rng = np.random.default_rng(len(name) + int(100 * shift))
    row, col = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    obs = pd.DataFrame({"sample": name, "patient": patient, "grid_row": row, "grid_col": col})
    obs.index = [f"{name}_{number}" for number in range(len(obs))]
    obs["predicted_leaky"] = False
    values = pd.DataFrame(rng.normal(size=(len(obs), 2)) + [shift, 0], obs.index, ["ERBB2", "GNAS"])
    found = ad.AnnData(obs=obs, obsm={"predicted": values})
    found.obsm["spatial"] = np.column_stack([col, row]) * 100.0
    return found


def test_maps_become_a_table_of_outcomes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    obs = pd.DataFrame({"patient": [f"p{i}" for i in range(12)], "age": np.arange(12) % 5 + 50.0})
    obs["response"] = np.arange(12) % 2 == 0
    slides = ad.AnnData(obs=obs.set_index("s" + obs["patient"]))
    maps = {name: a_map(name, row["patient"], 2.0 * row["response"]) for name, row in slides.obs.iterrows()}
    quick = {"hyperparameters": {"depths": (1,), "dims": (4,)}, "training": {"max_epochs": 1}}
    result = stp.tl.fit_outcome(slides, "response", maps=maps, clinical=["age"], n_folds=(2, 2), **quick)
    result.save(tmp_path / "outcome")

    (tmp_path / "maps").mkdir()
    others = {"a": a_map("a", "A", 2.0, (5, 5)), "b": a_map("b", "p3", 0.0, (8, 7))}
    for name, shown in others.items():
        shown.write_zarr(tmp_path / "maps" / f"{name}.zarr")
    (tmp_path / "maps.csv").write_text("path,age\nmaps/a.zarr,61\nmaps/b.zarr,52\nmaps/c.zarr,50\n")
    call = ["predict", str(tmp_path / "maps.csv"), "--model", str(tmp_path / "outcome"), "--out"]
    assert main([*call, str(tmp_path / "table.csv")]) == 1  # one map is missing
    said = capsys.readouterr()
    assert "[2/3] b: done, " in said.out
    assert "failed: c (" in said.err
    assert "found nothing" in said.err
    found = pd.read_csv(tmp_path / "table.csv").set_index("sample")
    assert found["patient"].tolist() == ["A", "p3"]
    assert found["response_probability_leaky"].tolist() == [False, True]
    wanted = ad.AnnData(obs=pd.DataFrame({"patient": ["A"], "age": [61.0]}, index=["a"]))
    stp.tl.predict_outcome(wanted, result, maps={"a": others["a"]})
    for name in wanted.obs.columns.difference(["patient", "age", "response_probability_leaky"]):
        assert found.loc["a", name] == pytest.approx(wanted.obs[name].iloc[0], abs=1e-6)

    assert main([*call, str(tmp_path / "table.csv")]) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert main([*call, str(tmp_path / "folder")]) == 1
    assert "expected a file (.csv, .tsv) as --out" in capsys.readouterr().err
    (tmp_path / "slides.csv").write_text("path\nslide.tif\n")
    assert main(["predict", str(tmp_path / "slides.csv"), *call[2:], str(tmp_path / "new.csv")]) == 1
    assert "expected maps of slides for a model of an outcome; found the picture of slide" in capsys.readouterr().err
    assert main([*call[:-1], str(tmp_path / "outcome"), "--out", str(tmp_path / "new.csv")]) == 1
    assert "expected one model of an outcome; found 2" in capsys.readouterr().err
