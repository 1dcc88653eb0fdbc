"""HEST-Bench's numbers against a script that shares nothing with the benchmark but scikit-learn."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hest_files import SIDE, write_bench
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import stpredict as stp

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hest.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are not part of a source distribution")
N, DIM = 160, 300


@pytest.fixture(scope="module")
def hest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hest_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Filters(nn.Module):
    """Means of random filters, more of them than principal components are kept."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filters = nn.Conv2d(3, DIM, 5, stride=3)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return self.filters(tiles).relu().mean(dim=(2, 3))


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    return write_bench(tmp_path_factory.mktemp("bench") / "IDC", n=N)


def independent(task: Path, encoder: stp.encoders.Encoder) -> list[list[float]]:
    """Pearson's r by split and gene, from the files."""
    genes = json.loads((task / "var_50genes.json").read_text())["genes"]

    def load(side: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = [], []
        for _, row in pd.read_csv(task / "splits" / f"{side}_{number}.csv").iterrows():
            with h5py.File(task / row["patches_path"]) as file:
                barcodes = file["barcode"][:].flatten().astype(str)
                x.append(encoder(torch.from_numpy(file["img"][:]).permute(0, 3, 1, 2).contiguous()).numpy())
            counts = ad.read_h5ad(task / row["expr_path"])[barcodes][:, genes].X
            y.append(np.log1p(counts.toarray().astype(np.float64)))
        return np.concatenate(x), np.concatenate(y)

    found = []
    for number in range(len(list((task / "splits").iterdir())) // 2):
        (x, y), (x_test, y_test) = load("train", number), load("test", number)
        reduce = make_pipeline(StandardScaler(), PCA(n_components=min(256, *x.shape), random_state=1))
        x, x_test = reduce.fit_transform(x), reduce.transform(x_test)
        alpha = 100 / (x.shape[1] * y.shape[1])
        ridge = Ridge(solver="lsqr", alpha=alpha, fit_intercept=False, max_iter=1000, random_state=1).fit(x, y)
        predicted = ridge.predict(x_test)
        found.append([np.corrcoef(predicted[:, g], y_test[:, g])[0, 1] for g in range(len(genes))])
    return found


def test_the_published_protocol_to_the_letter(hest, task) -> None:
    encoder = stp.encoders.get_encoder(Filters(), tile_px=SIDE, name="filters", device="cpu")
    # One batch, as in the script: the solver stops at a tolerance, so that other roundings of features give other numbers.
    adata = stp.io.read_hest(task, encoder=encoder, batch_size=N)
    ours = hest.published_scores(adata, "X_filters", hest.read_splits(task))
    genes = json.loads((task / "var_50genes.json").read_text())["genes"]
    expected = np.array(independent(task, encoder))
    assert np.abs(expected).mean() > 0.1  # something is predicted
    np.testing.assert_allclose(ours[genes].to_numpy(), expected, rtol=0, atol=1e-6)
    assert abs(ours.mean(axis=1).mean() - np.mean([np.mean(row) for row in expected])) < 1e-6


def test_table_of_a_task(hest, tmp_path, monkeypatch, capsys) -> None:
    task = write_bench(tmp_path / "IDC", n=25)
    for module in ("_read_hest", "_hest_files"):  # trying every file first in a process takes most of the time
        monkeypatch.setattr(f"stpredict.io.{module}.check_h5", lambda path: None)
    monkeypatch.setattr(hest.stp.settings, "progress", False)
    monkeypatch.setattr(sys, "argv", ["hest.py", "--data", str(task.parent), "--tasks", "IDC", "--device", "cpu"])
    monkeypatch.setattr(hest, "N_COMPONENTS", 20)
    hest.main()
    printed = capsys.readouterr().out
    assert "IDC color-texture" in printed
    assert "six colors" in printed
    assert "0 of 2" in printed  # no split is leaky
    monkeypatch.setattr(sys, "argv", ["hest.py", "--data", str(task.parent), "--tasks", "PRAD"])
    with pytest.raises(SystemExit, match="expected the tasks PRAD .* found IDC"):
        hest.main()


def test_samples_that_are_tested_together_count_as_one_patient(hest) -> None:
    obs = pd.DataFrame({"sample": list("ABCD")}, index=list("abcd"))
    adata = ad.AnnData(obs=obs)
    splits = {"split_0": (["C"], ["A", "B"]), "split_1": (["A"], ["C"]), "split_2": (["A"], ["D", "C"])}
    assert hest.name_patients(adata, splits) == "splits"
    assert adata.obs["patient"].tolist()[0] == adata.obs["patient"].tolist()[1]
    assert adata.obs["patient"].nunique() == 2
    adata.obs["patient"] = list("wxyz")
    assert hest.name_patients(adata, splits) == "metadata"
    assert adata.obs["patient"].tolist() == list("wxyz")
