"""The registry of networks: one decorator to enter it, one table to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.models.base._predictor import Predictor

T = TypeVar("T", bound="type[Predictor]")


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a registered network."""

    name: str
    cls: type[Predictor]
    config: type[Any]
    description: str
    paper: str
    license_of_reference: str

    def configure(self, hyperparameters: dict[str, Any]) -> Any:
        """Build the network's configuration; an unknown hyperparameter is an error that lists the known ones."""
        known = [f.name for f in fields(self.config)]
        unknown = sorted(set(hyperparameters) - set(known))
        if unknown:
            raise TypeError(
                f"expected hyperparameters of model {self.name!r} ({', '.join(known) or 'it has none'}); "
                f"found {', '.join(unknown)}"
            )
        return self.config(**hyperparameters)

    def reads(self, hyperparameters: dict[str, Any]) -> frozenset[str]:
        """Tensors that the network needs with these hyperparameters."""
        return self.cls.reads(self.configure(hyperparameters))


_MODELS: dict[str, ModelInfo] = {}


def register(
    name: str, *, config: type[Any], description: str, paper: str = "", license_of_reference: str = ""
) -> Callable[[T], T]:
    """Enter a network under a name.

    Parameters
    ----------
    name
        What users pass as `model=`.
    config
        Frozen dataclass of hyperparameters; its defaults are the paper's.
    description
        One line for the table of models.
    paper
        Citation key in the documentation's references.
    license_of_reference
        License of the reference implementation, where there is one.
    """
    if not is_dataclass(config):
        raise TypeError(f"expected the configuration of {name!r} to be a dataclass; found {config!r}")

    def enter(cls: T) -> T:
        if name in _MODELS and _MODELS[name].cls.__qualname__ != cls.__qualname__:
            raise ValueError(f"expected a new model name; found {name!r} already registered")
        _MODELS[name] = ModelInfo(name, cls, config, description, paper, license_of_reference)
        return cls

    return enter


@cache
def _load_entry_points() -> None:
    from importlib.metadata import entry_points

    for entry in entry_points(group="stpredict.models"):
        entry.load()


def get_model(name: str) -> ModelInfo:
    """Look up a network by name.

    Raises
    ------
    KeyError
        When no network has this name; the message lists those that exist.
    """
    if name not in _MODELS:
        _load_entry_points()
    if name not in _MODELS:
        raise KeyError(
            f"expected a model among {', '.join(sorted(_MODELS))}; found {name!r}; see stp.models.list_models()"
        )
    return _MODELS[name]


def list_models() -> pd.DataFrame:
    """Tabulate the registered networks: name, unit, inputs, description, paper, license of the reference."""
    import pandas as pd

    _load_entry_points()
    rows = [
        {
            "model": info.name,
            "unit": info.cls.unit,
            "needs": ", ".join(sorted(info.reads({}))),
            "description": info.description,
            "paper": info.paper,
            "license_of_reference": info.license_of_reference,
        }
        for info in _MODELS.values()
    ]
    return pd.DataFrame(rows).sort_values("model", ignore_index=True)
