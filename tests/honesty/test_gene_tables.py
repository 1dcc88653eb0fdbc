"""Tables of genes that hold something of the answer, or of which nobody knows what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stpredict as stp
from stpredict.models import Batch, Panel, Prediction, Predictor, Shape
from stpredict.models.base._registry import MODELS, register
from stpredict.tl.learn.inputs._gene_table import GeneTable

NAME = "reader_of_tables"
TRAINING = {"max_epochs": 1}


@dataclass(frozen=True)
class Config:
    gene_table: str = "gene_table"


class Network(Predictor):
    needs = frozenset({"features", "gene_table"})
    table: Tensor

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.register_buffer("table", torch.as_tensor(shape.genes.tables["gene_table"]).clone())
        self.image = nn.Linear(shape.width("features"), self.table.shape[1])

    def encode(self, batch: Batch) -> Tensor:
        return self.image(batch["features"])

    def decode(self, hidden: Tensor, genes: Panel) -> Prediction:
        return Prediction(hidden @ torch.as_tensor(genes.tables["gene_table"]).T)

    def forward(self, batch: Batch) -> Prediction:
        return Prediction(self.encode(batch) @ self.table.T)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    register(NAME, config=Config, description="for these tests")(Network)
    yield
    MODELS.remove(NAME)


def fitted(adata: ad.AnnData, *patients: str, **options: Any) -> Any:
    train = adata.obs["patient"].isin(patients).to_numpy()
    return stp.tl.fit(adata, NAME, train, training=TRAINING, baselines=False, **options)


def validated(adata: ad.AnnData, **options: Any) -> set[Any]:
    """Marks of the network, without those of its comparators."""
    options = {"metrics": ["pearson"], "ceiling": False, "baselines": False} | options
    table = stp.tl.cross_validate(adata, {NAME: {"model": NAME, "training": TRAINING}}, **options)
    return set(table.loc[table["model"] == NAME, "leaky"])


def test_a_table_of_test_patients_is_refused(toy: ad.AnnData, frozen: Callable[..., Any]) -> None:
    stp.pp.gene_table(toy, "expression", patients=["p0", "p2"], n_components=3)
    before = frozen(toy)
    with pytest.raises(ValueError, match="test patients have no part in; found p2 among the patients behind"):
        fitted(toy, "p0", "p1")
    assert frozen(toy) == before
    model = fitted(toy, "p0", "p1", allow_leakage=True)
    stp.tl.predict(toy, model)
    assert model.training.table_patients == ["p2"]
    assert toy.obs["predicted_leaky"].all()
    stp.tl.predict(toy, fitted(toy, "p0", "p2"))
    assert not toy.obs["predicted_leaky"][toy.obs["patient"] == "p1"].any()


@pytest.mark.parametrize("say", [{"patients": ["p1"]}, {"patients": ["P01"]}])
def test_a_given_table_has_the_patients_that_are_said(toy: ad.AnnData, say: dict[str, Any]) -> None:
    stp.pp.gene_table(toy, np.eye(6), **say)
    with pytest.raises(ValueError, match="found p1|found P01"):
        fitted(toy, "p0")
    with pytest.raises(ValueError, match="found p1|found P01"):
        validated(toy)
    assert validated(toy, allow_leakage=True) == {True, False}
    fitted(toy, "p0", "p1")


def test_a_permutation_of_a_table_has_seen_whom_the_table_has(toy: ad.AnnData) -> None:
    stp.pp.gene_table(toy, "expression", patients=["p1"], n_components=3, key_added="of")
    stp.pp.gene_table(toy, "permuted", of="of")
    with pytest.raises(ValueError, match="found p1"):
        fitted(toy, "p0", "p2")


def test_folds_make_a_table_of_expression_anew(toy: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each from the training side: what the test side measured changes no row, and no mark is needed."""
    stp.pp.gene_table(toy, "expression", train=np.ones(72, dtype=bool), n_components=3)
    read: list[np.ndarray] = []
    original = GeneTable.read

    def reading(self: GeneTable, source: Any) -> Any:
        found = original(self, source)
        read.append(found["gene_table"])
        return found

    monkeypatch.setattr(GeneTable, "read", reading)
    assert validated(toy) == {False}
    for number, name in enumerate(("p0", "p1", "p2")):
        alone = toy[toy.obs["patient"] != name].copy()
        stp.pp.gene_table(alone, "expression", train=np.ones(48, dtype=bool), n_components=3)
        np.testing.assert_allclose(read[number], alone.varm["gene_table"], atol=1e-6)
    models = stp.tl.fit_folds(toy, NAME, 3, training=TRAINING, baselines=False)
    assert not toy.obs["predicted_leaky"].any()
    with pytest.raises(
        ValueError, match="other rows for 6 genes of the model"
    ):  # that of the object is of all patients
        stp.tl.predict(toy, models[0], genes=["G1"])


def test_blocks_of_a_section_leave_out_tables_that_saw_it(toy: ad.AnnData) -> None:
    toy.obsm["spatial"] = toy.obsm["spatial"] * 10
    one = toy[toy.obs["sample"] == "s0"].copy()
    names = np.where(one.obsm["spatial"][:, 0] < one.obsm["spatial"][:, 0].mean(), "left", "right")
    folds = [stp.cohorts.Fold(name, names != name, names == name, within=True) for name in ("left", "right")]
    stp.pp.gene_table(one, np.eye(6), patients=["p0"])
    with pytest.raises(ValueError, match="found p0"):
        validated(one, splitter=folds)
    stp.pp.gene_table(one, "expression", patients=["p0"], n_components=2)
    assert validated(one, splitter=folds) == {"within section"}


def components(adata: ad.AnnData) -> None:
    import scanpy as sc

    sc.pp.pca(adata, n_comps=4)
    adata.varm["gene_table"] = adata.varm["PCs"]


def changed(adata: ad.AnnData) -> None:
    stp.pp.gene_table(adata, "random", n_components=3)
    adata.varm["gene_table"] = np.asarray(adata.X)[:24].T.copy()


@pytest.mark.parametrize("change", [components, changed])
def test_a_table_that_nobody_recorded_is_unknown(toy: ad.AnnData, change: Callable[[ad.AnnData], None]) -> None:
    change(toy)
    with pytest.warns(UserWarning, match=r"nobody wrote down how varm\['gene_table'\] was made"):
        model = fitted(toy, "p0", "p1")
    stp.tl.predict(toy, model)
    assert set(toy.obs["predicted_leaky"].astype(str)) == {"True", "unknown"}
    with pytest.warns(UserWarning, match="nobody wrote down"):
        assert validated(toy) == {"unknown"}


def test_genes_asked_for_through_a_table_that_saw_the_patient(toy: ad.AnnData) -> None:
    """The model is clean; what it is told of the genes at prediction is not."""
    rows = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    stp.pp.gene_table(toy, rows)
    model = stp.tl.fit(toy, NAME, (toy.obs["patient"] == "p0").to_numpy(), target=["G0", "G1"], training=TRAINING)
    stp.tl.predict(toy, model, genes=["G4"])
    assert not toy.obs["predicted_leaky"][toy.obs["patient"] == "p1"].any()
    stp.pp.gene_table(toy, rows, patients=["p1"])
    stp.tl.predict(toy, model, genes=["G4"])
    by = toy.obs.groupby("patient")["predicted_leaky"].agg(set)
    assert by.tolist() == [{True}, {True}, {False}]
    toy.varm["gene_table"] = rows * 1
    del toy.uns["stpredict"]["gene_table"]
    stp.tl.predict(toy, model, genes=["G4"])
    assert set(toy.obs["predicted_leaky"].astype(str)) == {"True", "unknown"}
