"""Raw counts beside the target, inputs that depend on the configuration, and what a network remembers of training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stpredict.models import Batch, Prediction, Predictor, Shape, register
from stpredict.models.base._registry import MODELS
from stpredict.training import (
    ArraySet,
    Fit,
    FittedModel,
    Loader,
    TrainingFacts,
    fit_arrays,
    predict_arrays,
    train_config,
)
from stpredict.training.targets import ExpressionTarget


@dataclass(frozen=True)
class Config:
    with_features: bool = True


class Remembering(Predictor):
    """A bias per gene, and a bank of the features and patients of the training set."""

    draws = "sections"
    several_sections = False
    needs = frozenset({"features", "counts", "size_factor"})

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.bias = torch.nn.Parameter(torch.zeros(shape.n_outputs))
        self.register_buffer("bank", torch.zeros(0, shape.widths.get("features", 0)))
        self.register_buffer("who", torch.zeros(0, dtype=torch.long))
        self.seen: list[Batch] = []

    @classmethod
    def reads(cls, config: Config) -> frozenset[str]:
        return cls.needs if config.with_features else frozenset({"counts", "size_factor"})

    def forward(self, batch: Batch) -> Prediction:
        self.seen.append(batch)
        return Prediction(self.bias.expand(len(batch), -1))

    def finish(self, batches: Iterable[Batch]) -> None:
        rows = list(batches)
        assert all(not batch.target.requires_grad for batch in rows)
        assert not torch.is_grad_enabled()
        assert not self.training
        if self.config.with_features:
            self.bank = torch.cat([batch["features"] for batch in rows])
        self.who = torch.cat([batch.patient for batch in rows])

    def make_room(self, state: Mapping[str, torch.Tensor]) -> None:
        self.bank, self.who = torch.empty_like(state["bank"]), torch.empty_like(state["who"])


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    register("remembering", config=Config, description="for these tests")(Remembering)
    yield
    MODELS.remove("remembering")


def make(n: int = 24) -> ArraySet:
    rng = np.random.default_rng(0)
    section = np.arange(n) * 4 // n
    inputs = {
        "features": rng.normal(size=(n, 3)).astype(np.float32),
        "counts": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        "size_factor": np.arange(n, dtype=np.float32),
    }
    return ArraySet(section, section // 2, inputs, target=rng.normal(size=(n, 2)).astype(np.float32))


@pytest.fixture(scope="module")
def fitted(registered: None) -> Fit:
    return fit_arrays("remembering", make(), config=CONFIG)


CONFIG = train_config("mlp", {"max_epochs": 1, "patience": 0})


def test_counts_go_with_their_rows_and_only_where_they_are_needed() -> None:
    data = make()
    for batch in Loader(data, "sections", batch_size=1, needs=frozenset({"counts", "size_factor"})):
        assert "features" not in batch
        np.testing.assert_array_equal(batch["counts"][:, 0], 2 * batch["size_factor"])
    for batch in Loader(data, needs=frozenset({"features"})):
        assert batch.inputs.keys() == {"features"}
    permuted = data.permuted(0)
    order = permuted["size_factor"].astype(int)
    assert not np.array_equal(order, np.arange(len(data)))
    np.testing.assert_array_equal(permuted["counts"], data["counts"][order])
    np.testing.assert_array_equal(permuted.target, data.target[order])
    np.testing.assert_array_equal(permuted["features"], data["features"])


def test_a_prediction_sees_neither_target_nor_counts(fitted) -> None:
    seen = fitted.network.seen
    assert all("counts" in batch and batch.target is not None for batch in seen)
    n = len(seen)
    predict_arrays(fitted.network, make())
    assert len(seen) == n + 4
    assert all(batch.target is None and batch.inputs.keys() == {"features"} for batch in seen[n:])


def test_inputs_depend_on_the_configuration(fitted) -> None:
    with_features = fitted.network
    without = fit_arrays("remembering", make(), hyperparameters={"with_features": False}, config=CONFIG).network
    assert all("features" in batch for batch in with_features.seen)
    assert all("features" not in batch for batch in without.seen)
    assert (with_features.shape.widths, without.shape.widths) == ({"features": 3}, {})


def test_the_bank_holds_the_whole_training_set_and_outlives_saving(tmp_path: Path) -> None:
    data = make()
    config = train_config("mlp", {"max_epochs": 1, "patience": 1})
    fit = fit_arrays("remembering", data, config=config)
    assert fit.validated_on == "patient"  # the inner validation is in the bank as well
    np.testing.assert_array_equal(fit.network.bank, data["features"])
    np.testing.assert_array_equal(fit.network.who, data.patient)
    model = FittedModel(
        model="remembering", network=fit.network, target=ExpressionTarget(("a", "b")), history=pd.DataFrame(),
        features={"slots": {}, "scaling": "global"}, training=TrainingFacts(["x"]),
    )  # fmt: skip
    loaded = FittedModel.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.network.bank, data["features"])
