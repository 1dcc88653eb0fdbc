"""What every reader has: the names of its inputs, and how it finds them in an object."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stpredict.slots._rows import Rows

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from stpredict.slots._container import Container

Scaling = Literal["global", "section"]
_READERS: dict[str, Reader] = {}


@dataclass
class Source:
    """Where inputs are read from.

    Attributes
    ----------
    data, adata
        Container and its table.
    rows
        The observations to read.
    config
        Configuration of the network.
    slots
        Slots of image features, `"X_{encoder}"`.
    scaling
        Scaling of the features, see :func:`stpredict.tl.fit`.
    image
        Images that the object does not record.
    genes
        Panel, for what is known of genes and for what was measured; empty at prediction.
    train
        Mask (n_obs,) of the measured training observations of a fold, of which tables of expression are made anew; `None`
        where tables are taken as they are.
    sample_key
        Column of `obs` with the section.
    progress
        Whether to show progress bars.
    """

    data: Container
    adata: AnnData
    rows: Rows
    config: Any
    slots: list[str] = field(default_factory=list)
    scaling: Scaling = "global"
    image: Any = None
    genes: Sequence[str] = ()
    train: np.ndarray | None = None
    sample_key: str = "sample"
    progress: bool = False


class Reader(ABC):
    """Reads one input, or several that lie side by side.

    A subclass enters itself by the names of its inputs.
    """

    #: Names of :data:`stpredict.models.INPUTS`.
    names: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.names:
            _READERS[name] = cls()

    @abstractmethod
    def read(self, source: Source) -> dict[str, Any]:
        """Arrays or row sources by name: of the rows, of all observations of their sections, or of the genes."""


def readers() -> dict[str, Reader]:
    """Readers by the name of the input; every module beside this one is imported first."""
    package = importlib.import_module("stpredict.tl.learn.inputs")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(_READERS)
