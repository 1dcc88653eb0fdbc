"""Comparators beside genes that a network was not trained on."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp
from stpredict.models import Panel
from stpredict.slots._prediction import prediction_frame
from stpredict.tl.learn._unseen import BESIDE_UNSEEN, beside_unseen, nearest_genes

COMTIP: dict[str, Any] = {
    "hyperparameters": dict(stp.models.get_model("comtip").cls.small) | {"image": "features"},
    "training": {"max_epochs": 2},
    "baselines": False,
}


def panel(rows: Any, *names: str) -> Panel:
    return Panel(names, {"gene_table": np.asarray(rows, dtype=np.float32)})


def test_the_nearest_gene_is_another_one() -> None:
    own = panel([[1, 0], [0, 1], [-1, 0], [0, -1]], "a", "b", "c", "d")
    asked = panel([[5, 1], [0.9, 0.1], [0, -2], [0, 1]], "x", "a", "y", "z")
    assert nearest_genes(asked, own).tolist() == [0, 1, 3, 1]  # "a" itself is not compared with "a"


def test_what_stands_beside() -> None:
    own = panel([[1, 0], [0, 1]], "a", "b")
    asked = panel([[2, 0.1], [0.1, 2], [3, 0]], "x", "y", "z")
    of_panel = np.array([[1.0, 0.0], [3.0, 4.0]])
    found = np.array([[1.0, 5.0, 0.0], [3.0, 7.0, 0.0]])
    calls: list[Panel | None] = []

    class Network:
        class shape:
            genes = own

    def predict(genes: Panel | None) -> np.ndarray:
        calls.append(genes)
        return of_panel if genes is None else np.arange(6.0).reshape(2, 3)

    tables = beside_unseen(BESIDE_UNSEEN, Network, asked, found, predict, 0)
    assert list(tables) == list(BESIDE_UNSEEN)
    np.testing.assert_allclose(tables["mean"], [[2, 6, 0], [2, 6, 0]])
    np.testing.assert_allclose(tables["mean_gene"], [[0.5, 4.5, -1.5], [3.5, 7.5, 1.5]])
    np.testing.assert_allclose(tables["nearest_gene"], [[1, 4, -1], [3, 8, 1]])
    np.testing.assert_allclose(tables["permuted_rows"], [[0.5, 4.5, -1.5], [3.5, 7.5, 1.5]])
    rows = calls[1].tables["gene_table"]
    assert not set(calls[1].names) & {*own.names, *asked.names}
    known = np.concatenate([asked.tables["gene_table"], own.tables["gene_table"]])
    same = (rows[:, None] == known[None]).all(axis=2)
    assert same.any(axis=1).all()  # rows of genes
    assert not same[np.arange(3), np.arange(3)].any()  # but of none its own


@pytest.fixture
def asked(toy: ad.AnnData) -> tuple[ad.AnnData, Any]:
    stp.pp.gene_table(toy, "random", n_components=4)
    train = (toy.obs["patient"] != "p2").to_numpy()
    model = stp.tl.fit(toy, "comtip", train, target=["G0", "G1", "G2", "G3"], **COMTIP)
    return toy[~train].copy(), model


def test_they_are_lines_of_the_table(asked: Any) -> None:
    """Per gene and section; a constant has no correlation, and is counted."""
    test, model = asked
    stp.tl.predict(test, model, genes=["G5", "G4"])
    for name in BESIDE_UNSEEN:
        frame = prediction_frame(test, f"predicted_baseline_{name}")
        assert list(frame.columns) == ["G5", "G4"]
        assert np.isfinite(frame.to_numpy()).all()
    scores = stp.tl.evaluate(test, metrics=["pearson"], ceiling=False)
    assert {"comtip", *BESIDE_UNSEEN} <= set(scores["model"])
    assert set(scores["gene"]) == {"G4", "G5"}
    assert scores.loc[scores["model"] == "mean", "pearson"].isna().all()
    assert scores.loc[scores["model"] != "mean", "pearson"].notna().all()
    assert stp.tl.summarize(scores).set_index("model").loc["mean", "n_undefined"] > 0


def test_only_those_that_are_asked_for(asked: Any) -> None:
    test, model = asked
    stp.tl.predict(test, model, genes=["G5"], baselines=["nearest_gene"])
    assert [slot for slot in test.obsm if "baseline" in slot] == ["predicted_baseline_nearest_gene"]
    stp.tl.predict(test, model, genes=["G5"], baselines=False)
    assert not [slot for slot in test.obsm if "baseline" in slot]
    with pytest.raises(KeyError, match="expected baselines of `genes=` among mean, mean_gene.*found ridge"):
        stp.tl.predict(test, model, genes=["G5"], baselines=["ridge"])
