"""The benchmark of alignments from the command line."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stpredict.cli._main import main


def test_prints_a_line_for_every_pair(toy: ad.AnnData, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Three patients, one in each fold; a slot of embedded genes beside the encoders."""
    toy.obsm["X_genes"] = np.random.default_rng(0).normal(size=(72, 3)).astype(np.float32)
    toy.obsm["X_control"] = np.random.default_rng(1).normal(size=(72, 4)).astype(np.float32)
    toy.uns["stpredict"]["X_control"] = {"encoder": "control"}
    toy.write_h5ad(tmp_path / "toy.h5ad")
    status = main(
        ["align", "--data", str(tmp_path / "toy.h5ad"), "--out", str(tmp_path / "out"), "--images", "X_toy"]
        + ["--genes", "pca", "X_genes", "--objectives", "clip", "--batches", "across", "within", "--epochs", "2"]
        + ["--controls", "X_control", "random-filters"]
    )
    assert status == 0
    table = pd.read_csv(tmp_path / "out" / "table.csv", keep_default_na=True)
    assert table["image"].tolist() == ["X_toy"] * 5 + ["X_control"]
    control = table.iloc[-1]
    assert control[["r", "delta", "low", "high", "mixing", "mixing of predictions"]].notna().all()
    assert control["delta"] == pytest.approx(control["r"] - table["r"].iloc[0])
    assert np.isnan(control["within i>g"])
    aligned = table[table["genes"].notna()]
    assert list(zip(aligned["genes"], aligned["batches"], strict=True)) == [
        (genes, batches) for genes in ("pca", "X_genes") for batches in ("across", "within")
    ]
    assert (
        aligned[["within i>g", "within g>i", "r", "delta", "low", "high", "mixing", "mixing of predictions"]]
        .notna()
        .all(None)
    )
    np.testing.assert_allclose(aligned["chance within"], 5 / 24)
    assert aligned["across i>g"].isna().all()
    assert table["leaky"].eq(False).all()
    before = table[table["genes"].isna()].iloc[0]
    np.testing.assert_allclose(aligned["delta"], aligned["r"] - before["r"], atol=1e-9)
    printed = capsys.readouterr().out
    assert "no recall across patients" in printed
    assert "X_genes" in printed
    assert "no line of random-filters: expected" in printed  # the object names no image
    recall = pd.read_csv(tmp_path / "out" / "recall.csv")
    assert len(recall) == 4 * 3 * 2
    # The mean over folds, in which patients weigh the same.
    own = recall[
        (recall["genes"] == "pca") & (recall["batches"] == "within") & (recall["direction"] == "image to genes")
    ]
    np.testing.assert_allclose(aligned.iloc[1]["within i>g"], own["recall@5"].mean())


def test_pairs_of_patients_have_recall_across_them(toy: ad.AnnData, tmp_path: Path) -> None:
    toy.obs["patient"] = toy.obs["sample"].astype(str).str.replace("s", "p").to_numpy()
    toy.write_h5ad(tmp_path / "toy.h5ad")
    options = ["--images", "X_toy", "--genes", "mlp", "--objectives", "siglip", "--batches", "across", "--epochs", "1"]
    main(["align", "--data", str(tmp_path / "toy.h5ad"), "--out", str(tmp_path / "out"), *options])
    aligned = pd.read_csv(tmp_path / "out" / "table.csv").iloc[1]
    assert aligned["chance across"] == aligned["chance within"] == 5 / 12
    assert 0 <= aligned["across i>g"] <= 1
    assert 0 <= aligned["same patient"] <= 1


def test_missing_data_is_a_message_and_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("nowhere", "nowhere.h5ad"):
        assert main(["align", "--data", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 1
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert not (tmp_path / "out").exists()
