"""Predict gene expression from H&E histology in scverse containers, and know how good the prediction is."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stpredict import cohorts, datasets, encoders, get, io, metrics, models, pl, pp, targets, tl, training
    from stpredict.cohorts import Cohort
    from stpredict.core._settings import settings
    from stpredict.slots._concat import concat

__version__ = "0.1.0"

_NAMESPACES = (
    "cohorts",
    "datasets",
    "encoders",
    "get",
    "io",
    "metrics",
    "models",
    "pl",
    "pp",
    "targets",
    "tl",
    "training",
)

__all__ = [
    "Cohort",
    "__version__",
    "cohorts",
    "concat",
    "datasets",
    "encoders",
    "get",
    "io",
    "metrics",
    "models",
    "pl",
    "pp",
    "settings",
    "targets",
    "tl",
    "training",
]


def __getattr__(name: str) -> Any:
    """Import a namespace when it is first used, so that `import stpredict` stays instant."""
    if name in _NAMESPACES:
        return importlib.import_module(f"stpredict.{name}")
    if name == "Cohort":
        return importlib.import_module("stpredict.cohorts").Cohort
    if name == "concat":
        return importlib.import_module("stpredict.slots._concat").concat
    if name == "settings":
        return importlib.import_module("stpredict.core._settings").settings
    raise AttributeError(f"module 'stpredict' has no attribute {name!r}; the namespaces are {', '.join(_NAMESPACES)}")


def __dir__() -> list[str]:
    return sorted(__all__)
