"""A network that knows genes by a row of a table, and predicts genes it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stpredict as stp
from stpredict.metrics import pearson
from stpredict.models import Batch, Panel, Prediction, Predictor, Shape
from stpredict.models.nn import Standardize
from stpredict.slots._prediction import prediction_frame

NAME = "table_reader"


@dataclass(frozen=True)
class TableReaderConfig:
    gene_table: str = "embedding"
    hidden: int = 8


class TableReader(Predictor):
    needs = frozenset({"features", "gene_table"})

    table: Tensor

    def __init__(self, config: TableReaderConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.standardize = Standardize(shape.width("features"))
        table = torch.as_tensor(shape.genes.tables["gene_table"], dtype=torch.float32)
        self.register_buffer("table", table.clone())
        self.image = nn.Linear(shape.width("features"), config.hidden)
        self.gene = nn.Linear(table.shape[1], config.hidden)
        self.level = nn.Linear(table.shape[1], 1)

    def encode(self, batch: Batch) -> Tensor:
        return self.image(self.standardize(batch["features"]))

    def decode(self, hidden: Tensor, genes: Panel) -> Prediction:
        return self._of(hidden, torch.as_tensor(genes.tables["gene_table"]).to(hidden))

    def forward(self, batch: Batch) -> Prediction:
        return self._of(self.encode(batch), self.table)

    def _of(self, hidden: Tensor, table: Tensor) -> Prediction:
        return Prediction(hidden @ self.gene(table).T + self.level(table).T)


@pytest.fixture(scope="module", autouse=True)
def _registered(registered: Any) -> Iterator[None]:
    with registered(NAME, TableReader, TableReaderConfig):
        yield


@pytest.fixture
def toy(toy: ad.AnnData) -> ad.AnnData:
    """Forty genes whose expression is the product of the features and of a row of a table."""
    rng = np.random.default_rng(2)
    table = rng.normal(size=(40, 4)).astype(np.float32)
    values = toy.obsm["X_toy"] @ table.T + 0.3 * rng.normal(size=(toy.n_obs, 40))
    genes = ad.AnnData(values.astype(np.float32), obs=toy.obs, obsm=dict(toy.obsm), uns=dict(toy.uns))
    genes.var_names = [f"G{i}" for i in range(40)]
    stp.pp.gene_table(genes, table, key_added="embedding")
    return genes


def test_the_whole_way(trip: Callable[..., Any], toy: ad.AnnData) -> None:
    model = trip(NAME, toy)
    assert model.network.shape.widths == {"features": 4, "gene_table": 4}
    assert model.network.shape.genes.names == tuple(toy.var_names)


def test_genes_it_never_saw(toy: ad.AnnData, tmp_path: Path) -> None:
    seen, unseen = list(toy.var_names[:30]), list(toy.var_names[30:])
    train = (toy.obs["patient"] != "p2").to_numpy()
    options: dict[str, Any] = {"target": seen, "training": {"max_epochs": 150, "learning_rate": 3e-2}}
    model = stp.tl.fit(toy, NAME, train, path=tmp_path / "model", baselines=False, **options)
    test = toy[~train].copy()
    stp.tl.predict(test, stp.training.FittedModel.load(tmp_path / "model"), genes=unseen)
    assert list(prediction_frame(test, "predicted").columns) == unseen
    found = pearson(np.asarray(test[:, unseen].X), test.obsm["predicted"])
    assert np.median(found) > 0.8

    shuffled = test[:, unseen].copy()
    stp.pp.gene_table(shuffled, np.roll(shuffled.varm["embedding"], 3, axis=0), key_added="embedding")
    stp.tl.predict(shuffled, model, genes=unseen)
    assert np.median(pearson(np.asarray(shuffled.X), shuffled.obsm["predicted"])) < 0.5


def test_another_table_than_that_of_the_model_is_refused(toy: ad.AnnData, frozen: Callable[..., Any]) -> None:
    seen, unseen = list(toy.var_names[:30]), list(toy.var_names[30:])
    model = stp.tl.fit(toy, NAME, target=seen, training={"max_epochs": 1}, baselines=False)
    stp.pp.gene_table(toy, np.roll(toy.varm["embedding"], 3, axis=0), key_added="embedding")
    before = frozen(toy)
    with pytest.raises(ValueError, match="expected in varm.*found other rows for 30 genes of the model"):
        stp.tl.predict(toy, model, genes=unseen)
    assert frozen(toy) == before
    others = toy[:, unseen].copy()  # without a gene of the model, how a table was made must tell
    stp.pp.gene_table(others, "random", n_components=4, key_added="embedding")
    with pytest.raises(ValueError, match="found method: model 'given', data 'random'"):
        stp.tl.predict(others, model, genes=unseen)


def test_the_permuted_table_stands_beside_the_network(toy: ad.AnnData) -> None:
    """Its rows are those of the object in another order; networks without a table have no such line."""
    quick: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False, "target": list(toy.var_names)}
    given = {
        NAME: {"model": NAME, "training": {"max_epochs": 2}},
        "mlp": {"model": "mlp", "training": {"max_epochs": 1}},
    }
    table = stp.tl.summarize(stp.tl.cross_validate(toy, given, **quick))
    labels = set(table["model"])
    assert labels >= {NAME, f"{NAME} (permuted table)", "ridge (permuted labels)"}
    assert "mlp (permuted table)" not in labels
    assert not table["leaky"].any()
    named = stp.tl.cross_validate(toy, given, baselines=["permuted_table"], **quick)
    assert set(named["model"]) == {NAME, "mlp", f"{NAME} (permuted table)", f"{NAME} (smoothed)"}

    model = stp.tl.fit(toy, NAME, baselines=["permuted_table"], training={"max_epochs": 1})
    own, other = (part.network.table.numpy() for part in (model, model.baselines["permuted_table"]))
    same = (own[:, None] == other[None]).all(axis=2)
    assert same.sum() == len(own)
    assert not same.diagonal().any()
    stp.tl.predict(toy, model)
    assert "predicted_baseline_permuted_table" in toy.obsm


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.varm.pop("embedding"), KeyError, "varm\\['embedding'\\].*gene_table"),
        (lambda a: a.varm.__setitem__("embedding", np.full((40, 4), np.nan)), ValueError, "finite rows of varm"),
    ],
)
def test_tables_that_cannot_be_read(
    toy: ad.AnnData, change: Callable[[ad.AnnData], Any], error: type, message: str, frozen: Callable[..., Any]
) -> None:
    change(toy)
    before = frozen(toy)
    with pytest.raises(error, match=message):
        stp.tl.fit(toy, NAME, baselines=False)
    assert frozen(toy) == before


def test_other_networks_predict_their_own_genes_only(toy: ad.AnnData) -> None:
    model = stp.tl.fit(toy, "ridge", target=list(toy.var_names[:5]))
    with pytest.raises(TypeError, match="reads a table of genes.*'ridge'"):
        stp.tl.predict(toy, model, genes=["G9"])
