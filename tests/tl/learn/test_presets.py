"""A preset brings its training settings to every call that takes hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import stpredict as stp
from stpredict.models import Preset, get_model
from stpredict.training import FittedModel

PAPER = Preset({"hidden": 8, "dropout": 0.0}, {"max_epochs": 2, "learning_rate": 0.02, "refit": False, "patience": 2})
ASKED = {"learning_rate": 0.03}


def by_fit(adata: Any, **options: Any) -> list[FittedModel]:
    return [stp.tl.fit(adata, "mlp", **options)]


def by_fit_folds(adata: Any, **options: Any) -> list[FittedModel]:
    return stp.tl.fit_folds(adata, "mlp", 2, **options)


def by_cross_validate(adata: Any, **options: Any) -> list[FittedModel]:
    from stpredict.tl.learn import _folds

    seen: list[FittedModel] = []
    original = _folds.fit_task

    def watched(*args: Any, **kwargs: Any) -> FittedModel:
        seen.append(original(*args, **kwargs))
        return seen[-1]

    baselines = options.pop("baselines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_folds, "fit_task", watched)
        entry = {"model": "mlp"} | options
        stp.tl.cross_validate(adata, {"net": entry}, 2, baselines=baselines, metrics=["pearson"], ceiling=False)
    return seen


@pytest.mark.parametrize("fitted", [by_fit, by_fit_folds, by_cross_validate])
def test_training_settings_come_with_a_preset_and_what_is_asked_for_comes_first(
    toy: Any, monkeypatch: pytest.MonkeyPatch, fitted: Callable[..., list[FittedModel]]
) -> None:
    monkeypatch.setattr(get_model("mlp").cls, "paper", PAPER)
    for training in ({}, ASKED):
        models = fitted(toy, hyperparameters="paper", training=training, baselines=False)
        assert models
        for model in models:
            settings = model.training.settings
            assert settings == settings | dict(PAPER.training) | training
            assert (model.network.config.hidden, model.network.config.dropout) == (8, 0.0)
            assert len(model.history) == 2


def test_a_preset_that_a_network_does_not_have_is_named(toy: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a preset of model 'mlp' \(small\).*found 'paper'"):
        stp.tl.fit(toy, "mlp", hyperparameters="paper")
    with pytest.raises(ValueError, match=r"\(paper, small\).*found 'published'"):
        stp.tl.cross_validate(toy, {"net": {"model": "egn", "hyperparameters": "published"}})
