"""What a network looks at before the gradient steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.models import Batch, Prediction, Predictor, Shape, get_model, register
from stpredict.models.base._registry import MODELS
from stpredict.training import ArraySet, fit_arrays, train_config, untrained


@dataclass(frozen=True)
class Config:
    pass


class Watching(Predictor):
    """A bias per gene; notes what it is shown, in which order."""

    draws = "sections"
    several_sections = False
    needs = frozenset({"features", "counts"})
    calibrated = ("scale",)
    log: list[tuple[Any, ...]] = []

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config, shape)
        self.bias = torch.nn.Parameter(torch.zeros(shape.n_outputs))
        self.register_buffer("scale", torch.zeros(1))

    def forward(self, batch: Batch) -> Prediction:
        kind = "step" if self.training else "validate"
        self.log.append((kind, *batch.section.unique().tolist()))
        return Prediction(self.bias.expand(len(batch), -1))

    def remember(self, batches: Iterable[Batch]) -> None:
        self.note("remember", batches)

    def calibrate(self, batches: Iterable[Batch], held_out: Iterable[Batch]) -> None:
        self.note("inner", batches)
        self.note("held out", held_out)
        self.scale += 3

    def finish(self, batches: Iterable[Batch]) -> None:
        self.note("finish", batches)

    def note(self, kind: str, batches: Iterable[Batch]) -> None:
        assert not self.training
        assert not torch.is_grad_enabled()
        rows = list(batches)
        assert all(len(batch.section.unique()) == 1 for batch in rows)
        assert all(batch.target is not None and "features" in batch for batch in rows)
        assert all("counts" in batch for batch in rows)
        assert self.target_mean.abs().sum() > 0  # the scales of the training set are known
        self.log.append((kind, *(int(batch.section[0]) for batch in rows)))


class Forgetful(Watching):
    """One that has nothing to remember."""

    remember = Predictor.remember
    finish = Predictor.finish
    calibrate = Predictor.calibrate


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    register("watching", config=Config, description="for these tests")(Watching)
    register("forgetful", config=Config, description="for these tests")(Forgetful)
    yield
    MODELS.remove("watching")
    MODELS.remove("forgetful")


def make(n: int = 24) -> ArraySet:
    """Three patients of two sections each."""
    rng = np.random.default_rng(0)
    section = np.arange(n) * 6 // n
    return ArraySet(
        section,
        section // 2,
        {"features": rng.normal(size=(n, 3)).astype(np.float32), "counts": np.ones((n, 2), dtype=np.float32)},
        target=rng.normal(size=(n, 2)).astype(np.float32),
    )


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    Watching.log.clear()


Log = list[tuple[Any, ...]]


def events(kind: str, log: Log = Watching.log) -> Log:
    return [entry[1:] for entry in log if entry[0] == kind]


@pytest.fixture(scope="module")
def two_phases(registered: None) -> Log:
    """What a network is shown by an inner phase and a refit."""
    Watching.log.clear()
    config = train_config("mlp", {"max_epochs": 2, "patience": 2, "refit": True})
    fit = fit_arrays("watching", make(), config=config)
    assert fit.validated_on == "patient"
    assert float(fit.network.scale) == 3  # of the network before, whose weights are gone
    return list(Watching.log)


def test_the_inner_phase_remembers_no_row_of_the_validation(two_phases) -> None:
    inner, refit = events("remember", two_phases)
    held_out = {section for entry in events("validate", two_phases) for section in entry}
    assert len(held_out) == 2
    assert set(inner) == set(range(6)) - held_out
    assert set(refit) == set(range(6))
    assert set(events("finish", two_phases)[0]) == set(range(6))


def test_what_was_held_out_is_told_apart_from_the_others_before_the_refit(two_phases) -> None:
    held_out = {section for entry in events("validate", two_phases) for section in entry}
    assert set(events("inner", two_phases)[0]) == set(range(6)) - held_out
    assert set(events("held out", two_phases)[0]) == held_out
    order = [entry[0] for entry in two_phases]
    first = order.index("inner")
    assert order[first + 1 : first + 3] == ["held out", "remember"]
    assert order.count("inner") == 1


def test_without_inner_validation_there_is_nothing_to_calibrate_on() -> None:
    fit = fit_arrays("watching", make(), config=train_config("mlp", {"max_epochs": 1, "patience": 0}))
    assert events("inner") == []
    assert float(fit.network.scale) == 0


def test_remembering_comes_before_the_first_step_of_each_phase(two_phases) -> None:
    order = [entry[0] for entry in two_phases if entry[0] != "validate"]
    first, second = (i for i, kind in enumerate(order) if kind == "remember")
    assert first == 0
    assert order[1] == "step"
    assert order[second + 1] == "step"
    assert order[-1] == "finish"
    assert order.count("finish") == 1


def test_the_network_trains_after_it_has_looked() -> None:
    fit_arrays("watching", make(), config=train_config("mlp", {"max_epochs": 1, "patience": 0}))
    assert len(events("step")) == 6
    assert events("validate") == []


def test_an_untrained_network_remembers_too() -> None:
    untrained("watching", make(), hyperparameters={}, seed=0)
    assert [entry[0] for entry in Watching.log] == ["remember", "finish"]
    assert events("remember") == [(0, 1, 2, 3, 4, 5)]


def test_networks_without_memory_are_shown_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(ArraySet, "batch", lambda *args, batch=ArraySet.batch: calls.append(1) or batch(*args))
    fit_arrays("forgetful", make(), config=train_config("mlp", {"max_epochs": 1, "patience": 0}))
    assert len(calls) == 6  # the steps of the epoch
    assert events("remember") == []


def test_registered_networks_remember_only_where_they_say_so() -> None:
    assert get_model("mlp").cls.remember is Predictor.remember
