"""Networks: tensors in, tensors out."""

from __future__ import annotations

import importlib
from typing import Any

from stpredict.models.base._batch import Batch, Prediction, Sections, Summary
from stpredict.models.base._inputs import INPUTS, Input
from stpredict.models.base._predictor import Predictor, Stage
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import MODELS, ModelInfo, build, get_model, list_models, register
from stpredict.models.base._shape import Panel, Shape
from stpredict.models.nn._language_model import register_language_model

__all__ = [
    "INPUTS",
    "Batch",
    "Input",
    "ModelInfo",
    "Panel",
    "Prediction",
    "Predictor",
    "Preset",
    "Sections",
    "Shape",
    "Stage",
    "Summary",
    "build",
    "get_model",
    "list_models",
    "register",
    "register_language_model",
    "suggest",
]


def __getattr__(name: str) -> Any:
    """Find the class of a registered network by its name, as in `stpredict.models.Hist`."""
    if (
        name == "suggest"
    ):  # networks know no containers: a door, for those who look for :func:`stpredict.tl.suggest` here
        return importlib.import_module("stpredict.tl").suggest
    if not name.startswith("_"):
        for model in MODELS:
            if MODELS.get(model).cls.__name__ == name:
                return MODELS.get(model).cls
    raise AttributeError(f"module 'stpredict.models' has no attribute {name!r}; see stpredict.models.list_models()")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
