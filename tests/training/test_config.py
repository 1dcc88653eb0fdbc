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
    *((name, value) for name in ("learning_rate", "weight_decay", "momentum", "gradient_clip", "loss_tolerance")
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
        ("monitor", "correlation"), ("monitor", "loss_then_correlation"), ("device", "cuda:1"), ("device", None),
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
