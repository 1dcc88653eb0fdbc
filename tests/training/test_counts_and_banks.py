"""Raw counts beside the target, inputs that depend on the configuration, and what a network remembers of training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from stpredict.models import Batch, Prediction, Predictor, register
from stpredict.models.base._registry import _MODELS
from stpredict.training import ArraySet, FittedModel, Loader, fit_arrays, predict_arrays, train_config


@dataclass(frozen=True)
class Config:
    with_features: bool = True


class Remembering(Predictor):
    """A bias per gene, and a bank of the features and patients of the training set."""

    unit = "section"
    needs = frozenset({"features", "counts"})

    def __init__(self, config: Config, n_genes: int, n_features: int = 0) -> None:
        super().__init__(config, n_genes, n_features)
        self.bias = torch.nn.Parameter(torch.zeros(n_genes))
        self.register_buffer("bank", torch.zeros(0, n_features))
        self.register_buffer("who", torch.zeros(0, dtype=torch.long))
        self.seen: list[Batch] = []

    @classmethod
    def reads(cls, config: Config) -> frozenset[str]:
        return cls.needs if config.with_features else frozenset({"counts"})

    def forward(self, batch: Batch) -> Prediction:
        self.seen.append(batch)
        return Prediction(self.bias.expand(len(batch), -1))

    def finish(self, batches: Iterable[Batch]) -> None:
        rows = list(batches)
        assert all(not batch.target.requires_grad for batch in rows)
        assert not torch.is_grad_enabled()
        assert not self.training
        if self.config.with_features:
            self.bank = torch.cat([batch.features for batch in rows])
        self.who = torch.cat([batch.patient for batch in rows])

    def make_room(self, state: Mapping[str, torch.Tensor]) -> None:
        self.bank, self.who = torch.empty_like(state["bank"]), torch.empty_like(state["who"])


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register("remembering", config=Config, description="for these tests")(Remembering)
    yield
    del _MODELS["remembering"]


def make(n: int = 24, **changes: Any) -> ArraySet:
    rng = np.random.default_rng(0)
    section = np.arange(n) * 4 // n
    values: dict[str, Any] = {
        "features": rng.normal(size=(n, 3)).astype(np.float32),
        "target": rng.normal(size=(n, 2)).astype(np.float32),
        "counts": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        "size_factor": np.arange(n, dtype=np.float32),
    }
    return ArraySet(section, section // 2, **values | changes)


CONFIG = train_config("mlp", {"max_epochs": 2, "patience": 0})


def test_counts_go_with_their_rows_and_only_where_they_are_needed() -> None:
    data = make()
    for batch in Loader(data, "section", needs=frozenset({"counts"})):
        assert batch.features is None
        np.testing.assert_array_equal(batch.counts[:, 0], 2 * batch.size_factor)
    assert all(
        batch.counts is None and batch.size_factor is None for batch in Loader(data, needs=frozenset({"features"}))
    )
    permuted = data.permuted(0)
    order = permuted.size_factor.astype(int)
    assert not np.array_equal(order, np.arange(len(data)))
    np.testing.assert_array_equal(permuted.counts, data.counts[order])
    np.testing.assert_array_equal(permuted.target, data.target[order])
    np.testing.assert_array_equal(permuted.features, data.features)


def test_a_prediction_sees_neither_target_nor_counts() -> None:
    fit = fit_arrays("remembering", make(), config=CONFIG)
    assert all(batch.counts is not None for batch in fit.network.seen)
    fit.network.seen.clear()
    predict_arrays(fit.network, make())
    assert len(fit.network.seen) == 4
    assert all(b.target is None and b.counts is None and b.size_factor is None for b in fit.network.seen)


def test_inputs_depend_on_the_configuration() -> None:
    with_features = fit_arrays("remembering", make(), config=CONFIG).network
    without = fit_arrays("remembering", make(), hyperparameters={"with_features": False}, config=CONFIG).network
    assert all(batch.features is not None for batch in with_features.seen)
    assert all(batch.features is None for batch in without.seen)
    assert (with_features.n_features, without.n_features) == (3, 3)


def test_the_bank_holds_the_whole_training_set_and_outlives_saving(tmp_path: Path) -> None:
    data = make()
    config = train_config("mlp", {"max_epochs": 2, "patience": 1})
    fit = fit_arrays("remembering", data, config=config)
    assert fit.validated_on == "patient"  # the inner validation is in the bank as well
    np.testing.assert_array_equal(fit.network.bank, data.features)
    np.testing.assert_array_equal(fit.network.who, data.patient)
    model = FittedModel(
        model="remembering", network=fit.network, panel=["a", "b"], normalization={}, history=pd.DataFrame(),
        features={"slots": {}, "scaling": "global"}, training={"patients": ["x"], "seed": 0},
    )  # fmt: skip
    loaded = FittedModel.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.network.bank, data.features)
