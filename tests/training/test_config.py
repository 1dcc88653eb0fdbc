"""Settings of the training loop are checked where they are made."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from stpredict.training import ArraySet, TrainConfig, fit_arrays, train_config
from stpredict.training.targets import FollowUpTarget

IMPOSSIBLE = [
    ("schedule", "cos"),
    ("schedule", None),
    ("optimizer", "x"),
    ("optimizer", "AdamW"),
    ("monitor", "x"),
    ("monitor", "validation_loss"),
    ("validation_fraction", 1.5),
    ("validation_fraction", -1),
    ("validation_fraction", 0),
    ("validation_fraction", 1),
    ("validation_fraction", math.nan),
    ("max_epochs", 0),
    ("max_epochs", -1),
    ("max_epochs", 2.5),
    ("max_epochs", True),
    ("patience", -1),
    ("patience", 1.5),
    ("patience", False),
    ("batch_size", 0),
    ("batch_size", -4),
    ("batch_size", 8.0),
    ("step_epochs", 0),
    ("step_epochs", 2.5),
    ("step_factor", 0),
    *((name, value)
      for name in ("learning_rate", "weight_decay", "momentum", "gradient_clip", "loss_tolerance", "final_learning_rate",
                   "step_factor")
      for value in (-1, math.nan, math.inf)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE, ids=lambda value: str(value))
def test_a_value_that_a_setting_cannot_have_is_named(name: str, value: Any) -> None:
    for make in (TrainConfig, lambda **changes: TrainConfig().updated(changes)):
        with pytest.raises(ValueError, match=rf"expected {name} .*found {value!r}"):
            make(**{name: value})
    with pytest.raises(ValueError, match=name):
        train_config("mlp", {name: value}, FollowUpTarget("time", "event"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", 1), ("batch_size", 1), ("patience", 0), ("validation_fraction", 0.01),
        ("validation_fraction", 0.99), ("learning_rate", 0), ("weight_decay", 0.0), ("gradient_clip", 0),
        ("momentum", 0.9), ("loss_tolerance", 0.0), ("schedule", "cosine"), ("optimizer", "sgd"),
        ("schedule", "step"), ("step_epochs", 1), ("step_factor", 1.0),
        ("final_learning_rate", 0.0), ("monitor", "correlation"), ("monitor", "loss_then_correlation"), ("device", "cuda:1"), ("device", None),
    ],
)  # fmt: skip
def test_the_last_possible_values_are_taken(name: str, value: Any) -> None:
    assert getattr(TrainConfig(**{name: value}), name) == value


@pytest.mark.parametrize("monitor", ["correlation", "loss_then_correlation"])
def test_networks_that_predict_at_the_end_only_are_not_chosen_by_a_score(monitor: str) -> None:
    assert train_config("bleep").monitor == "loss"
    with pytest.raises(ValueError, match=f"expected monitor='loss' for model 'bleep'.*found '{monitor}'"):
        train_config("bleep", {"monitor": monitor})
    data = ArraySet(np.zeros(4, dtype=np.int64), np.arange(4), {}, target=np.ones((4, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="expected monitor='loss' for model 'bleep'"):
        fit_arrays("bleep", data, config=TrainConfig(monitor=monitor))


def rates(**changes: Any) -> list[float]:
    """Learning rate of every epoch of a training."""
    import torch

    from stpredict.core._optional import mend_torchvision

    mend_torchvision()
    from stpredict.models import Stage, build
    from stpredict.training._loop import _Module

    module = _Module(build("mlp", 2, {"features": 3}), TrainConfig(**changes), Stage(), 0)
    found = module.configure_optimizers()
    if isinstance(found, torch.optim.Optimizer):
        return [group["lr"] for group in found.param_groups] * module.settings.max_epochs
    optimizer, schedule, seen = found["optimizer"], found["lr_scheduler"]["scheduler"], []
    for _ in range(module.settings.max_epochs + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_schedules_follow_their_formulas() -> None:
    epoch = np.arange(11)
    assert rates(max_epochs=10, learning_rate=0.5) == [0.5] * 10
    cosine = 0.1 + 0.4 * (1 + np.cos(np.pi * epoch / 10)) / 2
    changes = {"max_epochs": 10, "learning_rate": 0.5, "schedule": "cosine"}
    np.testing.assert_allclose(rates(**changes, final_learning_rate=0.1), cosine, rtol=1e-12)
    assert rates(**changes)[-1] == pytest.approx(0, abs=1e-12)
    steps = rates(max_epochs=10, learning_rate=0.5, schedule="step", step_epochs=4, step_factor=0.9)
    np.testing.assert_allclose(steps, 0.5 * 0.9 ** (epoch // 4), rtol=1e-12)


def test_what_is_asked_for_comes_before_the_target_the_preset_the_network_and_the_loop() -> None:
    target = FollowUpTarget("time", "event")
    loop, network = TrainConfig(), train_config("he2rna")
    paper = train_config("he2rna", hyperparameters="paper")
    outcome = train_config("he2rna", None, target, "paper")
    asked = train_config("he2rna", {"patience": 3, "batch_size": 9}, target, "paper")
    assert (loop.patience, network.patience, paper.patience, outcome.patience, asked.patience) == (15, 20, 50, 50, 3)
    assert (loop.batch_size, network.batch_size, outcome.batch_size, asked.batch_size) == (128, 16, 256, 9)
    assert (paper.monitor, outcome.monitor) == ("correlation", "loss")
    assert (paper.learning_rate, outcome.learning_rate) == (3e-4, 3e-4)
    assert train_config("he2rna", hyperparameters={"hidden": 8}) == network
    with pytest.raises(ValueError, match=r"expected a preset of model 'mlp' \(small\).*found 'paper'"):
        train_config("mlp", hyperparameters="paper")


def test_a_refit_goes_through_the_learning_rates_that_its_epochs_were_chosen_with(monkeypatch) -> None:
    from stpredict.core._optional import mend_torchvision

    mend_torchvision()
    from stpredict.training import _loop

    seen: list[list[float]] = []
    original = _loop._Module.on_train_epoch_end

    def watched(self: Any) -> None:
        if self.current_epoch == 0:
            seen.append([])
        seen[-1].append(self.optimizers().param_groups[0]["lr"])
        original(self)

    monkeypatch.setattr(_loop._Module, "on_train_epoch_end", watched)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3)).astype(np.float32)
    target = (features[:, :2] + 3 * rng.normal(size=(40, 2))).astype(np.float32)
    data = ArraySet(np.arange(40) // 10, np.arange(40) // 10, {"features": features}, target=target)
    changes = {"max_epochs": 12, "patience": 4, "learning_rate": 0.05, "schedule": "cosine", "refit": True}
    fit = fit_arrays("mlp", data, hyperparameters={"hidden": 8}, config=train_config("mlp", changes))
    inner, refit = seen
    assert 1 < fit.n_epochs < len(inner)
    assert refit == inner[: fit.n_epochs]
