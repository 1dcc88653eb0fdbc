"""`stpredict features`, `fit`, `evaluate` and `report`: each is what its function gives, in files."""

from __future__ import annotations

import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.cli._main import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_fit_predict_evaluate_and_report_in_a_row(
    sections: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    assert main(["fit", str(sections), "--features", "color-statistics", "--hold-out", "P3", "--out", str(model)]) == 0
    assert "trained on 72 observations of 2 patients" in capsys.readouterr().out
    wanted = ad.read_h5ad(sections)
    fitted = stp.tl.fit(wanted, "ridge", (wanted.obs["patient"] != "P3").to_numpy(), features="color-statistics")
    stp.tl.predict(wanted, fitted)
    assert main(["predict", str(sections), "--model", str(model), "--out", str(out)]) == 0
    found = ad.read_zarr(out / "sections.zarr")
    assert np.array_equal(found.obsm["predicted"], wanted.obsm["predicted"])
    assert found.obs["predicted_leaky"].astype(str).tolist() == (wanted.obs["patient"] != "P3").astype(str).tolist()
    capsys.readouterr()

    scores = stp.tl.evaluate(wanted)
    assert main(["evaluate", str(out / "sections.zarr"), "--out", str(tmp_path / "scores.csv")]) == 0
    assert "ridge" in capsys.readouterr().out
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "scores.csv").drop(columns="leaky"), scores.reset_index(drop=True).drop(columns="leaky"),
        check_dtype=False, check_categorical=False,
    )  # fmt: skip
    raw = ad.read_h5ad(sections)  # counts, as readers give them
    raw.X = raw.layers["counts"].copy()
    del raw.uns["stpredict"]["normalize"], raw.layers["counts"]
    raw.write_h5ad(tmp_path / "raw.h5ad")
    assert (
        main(
            [
                "evaluate",
                str(tmp_path / "raw.h5ad"),
                "--model",
                str(model),
                "--out",
                str(tmp_path / "again.tsv"),
                "--metrics",
                "pearson",
            ]
        )
        == 0
    )
    again = pd.read_csv(tmp_path / "again.tsv", sep="\t")
    assert again["pearson"].tolist() == pytest.approx(scores["pearson"].tolist(), nan_ok=True)

    genes = list(wanted.var_names[:2])
    monkeypatch.setattr("stpredict.report._object._N_SECTIONS", 1)
    assert main(["report", str(out / "sections.zarr"), "--genes", *genes, "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Not shown" not in page
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Quality", "Scores", "Maps", "Domains"]
    assert page.count("data:image/png;base64,") == 5  # features, scores, ceiling, maps and domains of a section
    assert "The first 1 of 3 sections" in page
    assert "<dt>Seen in training</dt><dd>72 of 108 observations</dd>" in page
    assert "http" not in page
    assert all(gene in page for gene in genes)


def test_fit_joins_files_and_passes_its_options_on(
    sections: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = ad.read_h5ad(sections)
    (tmp_path / "parts").mkdir()
    for patient in ("P1", "P2"):
        adata[adata.obs["patient"] == patient].copy().write_h5ad(tmp_path / "parts" / f"{patient}.h5ad")
    call = ["fit", str(tmp_path / "parts"), "--out", str(tmp_path / "model")]
    assert main([*call, "--hyperparameters", '{"alpha": 7.0}', "--target", *adata.var_names[:2]]) == 0
    fitted = stp.training.FittedModel.load(tmp_path / "model")
    assert fitted.network.config.alpha == 7
    assert sorted(fitted.training.patients) == ["P1", "P2"]
    assert fitted.panel == list(adata.var_names[:2])
    assert main([*call, "--hold-out", "P9"]) == 1
    assert "'P9'" in capsys.readouterr().err
    taken: dict = {}
    monkeypatch.setattr(
        stp.tl, "fit", lambda data, model, train, **options: taken.update(options, model=model, train=train)
    )
    more = ["--model", "mlp", "--hold-out", "P1", "--checkpoints", "steps", "--epochs", "2", "--device", "cpu"]
    assert main([*call, *more, "--hyperparameters", "small", "--seed", "3", "--target", "tumor"]) == 0
    assert taken.pop("train").sum() == 36
    assert taken == {
        "model": "mlp", "features": None, "target": "tumor", "hyperparameters": "small", "seed": 3,
        "training": {"max_epochs": 2, "device": "cpu"}, "path": tmp_path / "model", "checkpoint_dir": Path("steps"),
    }  # fmt: skip


def test_features_of_slides_become_bags_a_model_and_maps(
    slide_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("wsidata")
    rows = "".join(f"{slide_folder}/P{n}_S1.tif,P{n}\n" for n in (1, 2, 4))
    (tmp_path / "slides.csv").write_text("path,patient\n" + rows)
    call = ["features", str(tmp_path / "slides.csv"), "--encoder", "color-statistics", "--out", str(tmp_path / "tiles")]
    assert main([*call, "--tile-um", "80"]) == 0
    assert main([*call, "--tile-um", "80"]) == 0
    assert capsys.readouterr().out.count(": skipped, ") == 3
    assert main([*call, "--tile-um", "90"]) == 1
    tiles = ad.read_h5ad(tmp_path / "tiles" / "P1_S1.h5ad")
    assert tiles.uns["stpredict"]["X_color-statistics"]["tile_um"] == 80
    rng = np.random.default_rng(0)
    bulk = pd.DataFrame(rng.uniform(1, 900, (3, 4)), ["P1", "P2", "P4"], ["ERBB2", "ESR1", "GNAS", "CD8A"])
    bulk.to_csv(tmp_path / "bulk.csv")
    fit = [
        "fit",
        str(tmp_path / "tiles"),
        "--model",
        "sequoia",
        "--expression",
        str(tmp_path / "bulk.csv"),
        "--by",
        "patient",
    ]
    fit += ["--n-tokens", "4", "--hyperparameters", "small", "--epochs", "1", "--out", str(tmp_path / "model")]
    assert main(fit) == 0
    capsys.readouterr()
    predict = ["predict", str(slide_folder / "P1_S2.tif"), "--model", str(tmp_path / "model"), "--window", "2"]
    assert main([*predict, "--out", str(tmp_path / "maps")]) == 0
    found = stp.io.read_map(tmp_path / "maps" / "P1_S2.zarr", ["GNAS"])
    assert found.obsm["predicted"].shape == (found.n_obs, 1)
    assert found.uns["stpredict"]["shell"]["stride_px"] == 20
    assert main([*predict, "--out", str(tmp_path / "maps")]) == 0
    assert ": skipped, " in capsys.readouterr().out
    assert main(["report", str(tmp_path / "maps" / "P1_S2.zarr")]) == 0
    page = (tmp_path / "maps" / "P1_S2.html").read_text()
    assert page.count("data:image/png;base64,") >= 1
    assert "nothing measured chose them" in page
    assert "Nothing was measured here" in page
    assert "whose they are is not named" in page


def test_a_report_says_what_an_object_does_not_have(
    tmp_path: Path, toy: ad.AnnData, capsys: pytest.CaptureFixture
) -> None:
    toy.write_h5ad(tmp_path / "toy.h5ad")
    assert main(["report", str(tmp_path / "toy.h5ad")]) == 0
    page = (tmp_path / "toy.html").read_text()
    assert page.count("There is no prediction in this object.") == 2
    assert main(["report", str(tmp_path / "toy.h5ad"), "--key", "other"]) == 1
    assert main(["report", str(tmp_path / "toy.h5ad"), "--genes", "ABC"]) == 1
    (tmp_path / "broken.h5ad").write_bytes(b"HDF")
    assert main(["report", str(tmp_path / "broken.h5ad")]) == 1
    said = capsys.readouterr().err
    assert said.count("expected ") == 3
    assert "Traceback" not in said
