"""What is to be known of a kind of target to find it in an object and to write its predictions."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._prediction import Names
from stpredict.slots._scale import unit_in

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._rows import Rows
    from stpredict.training import FittedModel
    from stpredict.training.targets import Target

_KINDS: dict[str, TargetSlots] = {}
_REQUESTS: dict[type, TargetSlots] = {}


@dataclass(frozen=True)
class Keys:
    """Names of the columns that say which section and which patient an observation is of."""

    sample: str = Key.SAMPLE
    patient: str = Key.PATIENT


@dataclass
class Outputs:
    """What models have predicted for all observations of a table, before it is written.

    Attributes
    ----------
    members
        The models behind it, one or several that were averaged.
    frames
        Tables (n_obs, n_outputs) by slot: the prediction, its standard deviation, baselines.
    as_map
        Whether it is a map of the tiles of a slide.
    columns
        Columns of `obs` that are written as well.
    """

    members: list[FittedModel]
    frames: dict[str, pd.DataFrame]
    as_map: bool = False
    columns: dict[str, Any] = field(default_factory=dict)


class TargetSlots(ABC):
    """Reads one kind of target from an object and writes its predictions there.

    A subclass enters itself by the kind of the target and by the request of :mod:`stpredict.targets`.
    """

    kind: ClassVar[str]
    request: ClassVar[type]
    #: What the columns of its predictions are.
    names: ClassVar[Names] = "genes"
    #: Whether networks without gradient steps can predict it, and serve as baselines.
    closed_form: ClassVar[bool] = False
    #: Whether it can be mapped over the tiles of a slide, and such a map be stored.
    maps: ClassVar[bool] = False
    stores: ClassVar[bool] = False
    #: Whether predictions are quantities, scored by :func:`stpredict.tl.evaluate`.
    quantities: ClassVar[bool] = False
    #: Whether training observations without a measurement are left out, where the network cannot use them.
    skips_unmeasured: ClassVar[bool] = False

    @property
    def of_genes(self) -> bool:
        """Whether it is measured gene by gene."""
        return self.quantities and self.names == "genes"

    @property
    def training_defaults(self) -> Mapping[str, Any]:
        """Departures of the training settings that suit this kind of target."""
        return {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _KINDS[cls.kind] = _REQUESTS[cls.request] = cls()

    @abstractmethod
    def resolve(
        self, adata: AnnData, request: Any, train: np.ndarray, keys: Keys, *, allow_leakage: bool
    ) -> tuple[Target, list[str]]:
        """Return the target and the patients outside the training rows that it was chosen on."""

    @abstractmethod
    def usable(self, adata: AnnData, request: Any) -> np.ndarray:
        """Mask (n_obs,) of observations that can be learned from."""

    @abstractmethod
    def read(self, adata: AnnData, request: Any, target: Target, rows: Rows, keys: Keys) -> np.ndarray:
        """Values of some observations, see :class:`stpredict.models.Batch`."""

    @abstractmethod
    def key(self, target: Target) -> str:
        """Slot of predictions when users name none."""

    @abstractmethod
    def check(self, adata: AnnData, target: Target) -> None:
        """Raise where an object says that it is in another unit than the target was."""

    def record(self, target: Target) -> Mapping[str, Any]:
        """What the record of a prediction says of its target, besides its kind."""
        return {}

    def columns(self, key: str) -> set[str]:
        """Columns of `obs` that a prediction in a slot has, leak and fold aside."""
        return set()

    def arrange(self, key: str, outputs: Outputs) -> Outputs:
        """Turn tables of outputs into the slots and columns that users find."""
        return outputs


def unit_record(targets: Sequence[Target], names: Sequence[str]) -> dict[str, Any]:
    """What the record of a prediction says of its unit and of its training, or of those of its folds.

    Proportions of the genes in training (n_folds, n_genes) and quantiles of the depths there (n_folds, k); NaN for genes
    that a fold did not predict.
    """
    if not hasattr(targets[0], "normalization"):
        return {}
    found: dict[str, Any] = {"unit": unit_in(targets[0].normalization)}
    if all(getattr(target, "rates", ()) for target in targets):
        known = [dict(zip(target.names, target.rates, strict=True)) for target in targets]  # type: ignore[attr-defined]
        found["training_rates"] = np.array([[rates.get(name, np.nan) for name in names] for rates in known])
        found["training_depths"] = np.array([target.depths for target in targets])  # type: ignore[attr-defined]
    return found


def slots_of(kind: str) -> TargetSlots:
    """The reader and writer of a kind of target."""
    _import_all()
    return _KINDS[kind]


def slots_for(request: Any) -> TargetSlots:
    """The reader and writer for what a user asked for."""
    _import_all()
    return _REQUESTS[type(request)]


def _import_all() -> None:
    package = importlib.import_module("stpredict.tl.learn.targets")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
