"""The registry of networks: one decorator to enter it, one table to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

from stpredict.core._device import seed_torch
from stpredict.core._registry import Registry
from stpredict.models.base._inputs import check_needs
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._preset import Preset
from stpredict.models.base._shape import Panel, Shape

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T", bound="type[Predictor]")
#: Hyperparameters as users give them: departures from the defaults, or the name of a preset.
Hyperparameters = Mapping[str, Any] | str | None


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a registered network.

    Attributes
    ----------
    name
        What users pass as `model=`.
    cls
        The network.
    config
        Frozen dataclass of its hyperparameters.
    description
        One line for the table of models.
    paper
        Citation key in the documentation's references.
    license_of_reference
        License of the reference implementation; empty where there is none.
    """

    name: str
    cls: type[Predictor]
    config: type[Any]
    description: str
    paper: str = ""
    license_of_reference: str = ""

    @property
    def presets(self) -> dict[str, Preset]:
        """Configurations by name: `"paper"` where there is a published recipe, `"small"`, and the network's own."""
        paper = {} if self.cls.paper is None else {"paper": self.cls.paper}
        return paper | {"small": Preset(self.cls.small)} | dict(self.cls.presets)

    def preset(self, hyperparameters: Hyperparameters) -> Preset:
        """Preset of this name; departures from the default hyperparameters are one that leaves the training as it is."""
        if not isinstance(hyperparameters, str):
            return Preset(dict(hyperparameters or {}))
        if hyperparameters not in self.presets:
            raise ValueError(
                f"expected a preset of model {self.name!r} ({', '.join(self.presets)}) or a mapping of "
                f"hyperparameters; found {hyperparameters!r}"
            )
        return self.presets[hyperparameters]

    def options(self, hyperparameters: Hyperparameters) -> dict[str, Any]:
        """Departures from the default hyperparameters, by themselves or by the name of a preset."""
        return dict(self.preset(hyperparameters).hyperparameters)

    def configure(self, hyperparameters: Hyperparameters = None) -> Any:
        """Build the network's configuration; an unknown hyperparameter is an error that lists the known ones."""
        options = self.options(hyperparameters)
        known = [f.name for f in fields(self.config)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise TypeError(
                f"expected hyperparameters of model {self.name!r} ({', '.join(known) or 'it has none'}); "
                f"found {', '.join(unknown)}"
            )
        # A list from a file is the tuple that it was.
        return self.config(**{name: tuple(v) if isinstance(v, list) else v for name, v in options.items()})

    def reads(self, hyperparameters: Hyperparameters = None) -> frozenset[str]:
        """Inputs that the network needs with these hyperparameters."""
        return check_needs(self.cls.reads(self.configure(hyperparameters)), f"model {self.name!r}")


MODELS: Registry[ModelInfo] = Registry("model", "stpredict.models", "stp.models.list_models()")


def register(
    name: str, *, config: type[Any], description: str, paper: str = "", license_of_reference: str = ""
) -> Callable[[T], T]:
    """Register a network under a name.

    Another package adds networks by naming the module that registers them in the entry-point group `stpredict.models`.

    Parameters
    ----------
    name
        What users pass as `model=`.
    config
        Frozen dataclass of hyperparameters. Where its defaults are not the paper's, the preset `paper` of the class is.
    description
        One line for the table of models.
    paper
        Citation key in the documentation's references.
    license_of_reference
        License of the reference implementation, where there is one.

    Returns
    -------
    A decorator that returns the class unchanged.

    Raises
    ------
    TypeError
        When the configuration is no dataclass.
    ValueError
        When the name is taken, or `needs` holds a name that is no input (:data:`stpredict.models.INPUTS`).
    """
    if not is_dataclass(config):
        raise TypeError(f"expected the configuration of {name!r} to be a dataclass; found {config!r}")

    def enter(cls: T) -> T:
        check_needs(cls.needs, f"model {name!r}")
        MODELS.add(name, ModelInfo(name, cls, config, description, paper, license_of_reference), cls)
        return cls

    return enter


def get_model(name: str) -> ModelInfo:
    """Look up a network by name.

    Parameters
    ----------
    name
        Registered name.

    Returns
    -------
    What is known of it.

    Raises
    ------
    KeyError
        When no network has this name; the message lists those that exist.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.models.get_model("hist").paper
    'li2026'
    """
    return MODELS.get(name)


def list_models(pattern: str = "*") -> pd.DataFrame:
    """List the registered networks.

    Parameters
    ----------
    pattern
        Names to list, with the wildcards `*` and `?`.

    Returns
    -------
    One row per network, indexed by name: `draws` (`"rows"`, `"section_rows"` or `"sections"`), `needs` (its inputs with the default
    hyperparameters), `description`, `paper` (key in the bibliography), `presets` (`"paper"` among them where there is a
    published recipe), `weights` (whether published weights can be read, see
    :func:`stpredict.training.load_published`) and `license_of_reference`.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.models.list_models("*triplex").index.tolist()
    ['bg_triplex', 'triplex']
    """
    import pandas as pd

    from stpredict.core._table import compact

    rows = {
        name: {
            "draws": info.cls.draws,
            "needs": ", ".join(sorted(info.reads())),
            "description": info.description,
            "paper": info.paper,
            "presets": ", ".join(info.presets),
            "weights": info.cls.published is not None,
            "license_of_reference": info.license_of_reference,
        }
        for name in MODELS
        if fnmatchcase(name, pattern)
        for info in (MODELS.get(name),)
    }
    columns = ["description", "draws", "needs", "paper", "presets", "weights", "license_of_reference"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("name")
    return compact(table, ["needs", "description"])


def build(
    name: str,
    n_outputs: int | None = None,
    widths: Mapping[str, int] | None = None,
    *,
    genes: Panel | None = None,
    hyperparameters: Hyperparameters = None,
    seed: int | None = None,
) -> Predictor:
    """Build the bare network: for tests, parity checks, and training of your own.

    Parameters
    ----------
    name
        Registered name.
    n_outputs
        Number of genes, classes or risks; that of the preset, where it is a published network, when `None`.
    widths
        Length of the last axis of each input that has a width, for example `{"features": 1536}`; those of the preset when
        `None`.
    genes
        Genes and their tables, for networks that read tables of genes.
    hyperparameters
        Departures from the defaults, or the name of a preset (`"small"`, `"paper"`, or one of the network's own).
    seed
        Random seed for the weights, which leaves the global random state as it was; the global state when `None`.

    Returns
    -------
    The network, in training mode, on the CPU.

    Raises
    ------
    KeyError
        When no network has this name.
    TypeError
        For an unknown hyperparameter.
    ValueError
        When the number of outputs or a width is missing, or there is no such preset.

    Examples
    --------
    >>> import stpredict as stp
    >>> network = stp.models.build("mlp", 20, {"features": 153}, hyperparameters={"hidden": 8})
    >>> sum(p.numel() for p in network.parameters())
    1412
    """
    import torch

    info = get_model(name)
    preset = info.preset(hyperparameters)
    n_outputs = preset.n_outputs if n_outputs is None else n_outputs
    if n_outputs is None:
        known = ", ".join(each for each, one in info.presets.items() if one.n_outputs is not None)
        raise ValueError(
            "expected n_outputs, the number of genes, classes or risks; found none"
            + (f"; of the presets of {name!r} these say it: {known}" if known else "")
        )
    widths = preset.widths if widths is None else widths
    config, shape = info.configure(hyperparameters), Shape(n_outputs, dict(widths), genes or Panel())
    if seed is None:
        return info.cls(config, shape)
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed)
        return info.cls(config, shape)
