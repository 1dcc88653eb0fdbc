"""A trained network with everything needed to use it elsewhere: target, inputs, units, history."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._atomic import write_directory
from stpredict.core._turns import tidy
from stpredict.training._digests import (
    CONFIG,
    FORMAT,
    check_files,
    file_digests,
    inside,
    plain_names,
    read_config,
    write_config,
)
from stpredict.training._facts import TrainingFacts
from stpredict.training._on_tiles import OnTiles
from stpredict.training._sharing import Shared
from stpredict.training.targets import CountsTarget, ExpressionTarget, Target, target_from_dict

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from stpredict.models import Predictor

_TRIES = 5
_LARGEST = 10**6  # size that a configuration may have for as small weights as there are
#: What networks raise for hyperparameters that do not fit each other.
_UNFIT = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, NotImplementedError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
_WEIGHTS, _PANEL, _HISTORY = "weights.safetensors", "panel.tsv", "history.csv"


@dataclass
class FittedModel(OnTiles, Shared):
    """What :func:`stpredict.tl.fit` returns.

    Attributes
    ----------
    model
        Registered name of the network.
    network
        The trained network, on the CPU, in evaluation mode.
    target
        What it predicts, see :mod:`stpredict.training.targets`.
    features
        Slot, provenance and scaling of the image features; empty for networks that read patches only.
    training
        Patients, sections, settings, seed, what the inner validation held out, number of epochs.
    history
        One row per epoch.
    baselines
        Fitted baselines on the same training rows, by name.
    """

    model: str
    network: Predictor
    target: Target
    features: dict[str, Any]
    training: TrainingFacts
    history: pd.DataFrame
    baselines: dict[str, FittedModel] = field(default_factory=dict)

    @property
    def panel(self) -> list[str]:
        """Names of the outputs, in their order: genes, classes, or the risk."""
        return self.target.names

    @property
    def normalization(self) -> dict[str, Any]:
        """How the training target was normalized; empty where it is not expression."""
        return dict(getattr(self.target, "normalization", {}))

    def __repr__(self) -> str:
        people = self.training.patients
        what = "gene" if isinstance(self.target, ExpressionTarget | CountsTarget) else "output"
        beside = f" beside {self._auxiliary_genes()}" if self.training.auxiliary else ""
        return (
            f"FittedModel({self.model!r}, {len(self.panel)} {what}{'s' if len(self.panel) != 1 else ''}{beside}, trained on "
            f"{self.training.n_obs} observations of {len(people)} patient{'s' if len(people) != 1 else ''})"
        )

    def _auxiliary_genes(self) -> str:
        facts = self.training.auxiliary
        n = len(facts["genes"])
        return f"{facts['n_kept']} of {n} auxiliary genes" if "n_kept" in facts else f"{n} auxiliary genes"

    @property
    def aux_weight(self) -> pd.Series:
        """Weight of every gene in training: 1 for the panel, then the auxiliary genes by rank; to be put into `var`."""
        import pandas as pd

        facts = self.training.auxiliary
        weight = [1.0] * len(self.panel) + list(facts.get("weight", []))
        return pd.Series(weight, index=[*self.panel, *facts.get("genes", [])], name="aux_weight")

    def fingerprint(self) -> str:
        """Digest of the network, its weights and all that is known of it, and of its baselines: no other model shares it."""
        digest = hashlib.sha256()
        for part in (self, *self.baselines.values()):
            described = [part.model, part.panel, part.features, asdict(part.training), part.target.to_dict()]
            digest.update(json.dumps([*described, asdict(part.network.config)], default=str).encode())
            for name, tensor in sorted(part.network.state_dict().items()):
                digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> Path:
        """Write the model to a directory: `config.json`, `weights.safetensors`, `panel.tsv`, `history.csv`.

        `config.json` holds the digests of the other files and of itself, and :meth:`load` refuses what does not match.
        Everything is written beside the target first and then moved into place, so that an interrupted save leaves
        the earlier model, or none. Two processes that save to one path take turns.

        Parameters
        ----------
        path
            Directory; a model that is there is replaced, any other directory with files in it is an error.

        Returns
        -------
        The directory.

        Raises
        ------
        FileExistsError
            When the directory holds files but no model.
        OSError
            When the directory cannot be written.
        """
        return write_directory(Path(path), CONFIG, self.write)

    def write(self, directory: Path) -> None:
        """Write the files of :meth:`save` into a directory that is there, or is made."""
        from safetensors.torch import save

        from stpredict import __version__

        directory.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.contiguous().clone() for k, v in self.network.state_dict().items()}
        (directory / _WEIGHTS).write_bytes(save(tensors))
        lines = "gene\n" + "".join(f"{_escaped(gene)}\n" for gene in self.panel)
        (directory / _PANEL).write_bytes(lines.encode("utf-8", "surrogatepass"))
        self.history.to_csv(directory / _HISTORY, index=False)
        baselines = plain_names(sorted(self.baselines), directory)
        for name in baselines:
            self.baselines[name].write(directory / "baselines" / name)
        # Those of the baselines stand in their own configurations.
        files = [_WEIGHTS, _PANEL, _HISTORY, *(f"baselines/{name}/{CONFIG}" for name in baselines)]
        config = {
            "format": FORMAT,
            "stpredict_version": __version__,
            "model": self.model,
            "hyperparameters": asdict(self.network.config),
            "widths": dict(self.network.shape.widths),
            "target": self.target.to_dict(),
            "features": self.features,
            "training": asdict(self.training),
            "baselines": baselines,
            "files": file_digests(directory, files),
        }
        write_config(directory, config)

    @classmethod
    def load(cls, path: str | Path) -> FittedModel:
        """Read a model that :meth:`save` wrote; nothing is unpickled, and nothing is read outside of the directory.

        A model that a killed process had moved aside, to put another in its place, is brought back first.

        Parameters
        ----------
        path
            The directory.

        Returns
        -------
        The model.

        Raises
        ------
        FileNotFoundError
            When there is no model in the directory, or one of its files is missing.
        KeyError
            When there is no network of its name.
        ValueError
            When a file is damaged, truncated, a link, or another than the one that was saved, weights are not finite, or
            the parts do not belong together.
        """
        path = Path(path)
        place = path.resolve() if path.is_symlink() else path
        tidy(place, wait=not (path / CONFIG).is_file())
        for _ in range(_TRIES):
            before = _identity(path)
            try:
                return cls._read(path)
            except (ValueError, FileNotFoundError):
                if _identity(path) == before:
                    raise
        return cls._read(path)  # another process has put other models there while this one was read

    @classmethod
    def _read(cls, path: Path) -> FittedModel:
        import pandas as pd

        from stpredict.core._read_weights import read_weights

        config = read_config(path)
        names = plain_names(config["baselines"], path)
        check_files(
            path, (_PANEL, _WEIGHTS, _HISTORY, *(f"baselines/{name}/{CONFIG}" for name in names)), config["files"]
        )
        text = (path / _PANEL).read_bytes().decode("utf-8", "surrogatepass")
        panel = [_plain(line) for line in text.split("\n")[1:-1]]
        baselines = {name: cls._read(inside(path, f"baselines/{name}")) for name in names}
        state = read_weights(path / _WEIGHTS)
        network = _network(path, config, panel, state)
        unusable = sorted(name for name, value in state.items() if not value.isfinite().all())
        if unusable:
            raise ValueError(
                f"expected finite weights in {path / _WEIGHTS}; found NaN or infinity in {len(unusable)} tensors (first: "
                f"{unusable[0]}); fit the model again"
            )
        network.load_state_dict(state)
        history = path / _HISTORY
        empty = not history.read_text().strip()
        if not isinstance(config["features"].get("slots"), dict) or "scaling" not in config["features"]:
            raise ValueError(f"expected slots and scaling of features in {path / CONFIG}; found {config['features']!r}")
        return cls(
            model=config["model"],
            network=network.eval(),
            target=target_from_dict(config["target"], panel),
            features=config["features"],
            training=TrainingFacts.from_dict(config["training"]),
            history=pd.DataFrame() if empty else pd.read_csv(history),
            baselines=baselines,
        )


def _network(path: Path, config: dict[str, Any], panel: list[str], state: dict[str, Tensor]) -> Predictor:
    """Build the network of a configuration, once its sizes are found to be those of the weights."""
    import numpy as np
    import torch

    from stpredict.models import INPUTS, Panel, build, get_model

    name, widths = config["model"], config["widths"]
    get_model(name)
    names = [*panel, *_auxiliary_names(path, config)]
    unknown = [n for n, width in widths.items() if n not in INPUTS or not isinstance(width, int) or width < 0]
    if unknown:
        raise ValueError(f"expected widths of inputs in {path / CONFIG}; found {unknown[0]}: {widths[unknown[0]]!r}")
    lengths = {length for tensor in state.values() for length in tensor.shape}
    tables = {n: width for n, width in widths.items() if INPUTS[n].axis == "gene"}
    found = [f"{n} of {width} numbers per gene" for n, width in tables.items() if width not in lengths]
    most = max(_LARGEST, sum(tensor.numel() for tensor in state.values()))
    large = [number for number in _numbers([config["hyperparameters"], widths]) if abs(number) > most]
    if large:
        raise ValueError(
            f"expected a configuration that fits the network in {path}; found a size of {large[0]}, more than there are weights"
        )

    def made() -> Predictor:
        # Tables of genes are among the weights; here they only have to have their size.
        zeros = {n: np.zeros((len(names), width), np.float32) for n, width in tables.items()}
        genes = Panel(tuple(names), zeros)
        network = build(name, len(names), widths, genes=genes, hyperparameters=config["hyperparameters"], seed=0)
        network.n_wanted = len(panel)
        network.make_room(state)
        return network

    if not found:
        try:
            # Without memory first: a configuration may ask for any number of numbers.
            with torch.device("meta"), tensor_limit(4 * len(state) + 64):
                wanted = made().state_dict()
        except _UNFIT as error:
            raise ValueError(f"expected a configuration that fits the network in {path}; found: {error}") from error
        found = sorted(
            key
            for key in wanted.keys() | state.keys()
            if key not in wanted or key not in state or wanted[key].shape != state[key].shape
        )
    if found:
        raise ValueError(
            f"expected weights of model {name!r} for {len(names)} genes in {path}; found {len(found)} tensors that do not "
            f"fit (first: {found[0]})"
        )
    return made()


def _auxiliary_names(path: Path, config: dict[str, Any]) -> list[str]:
    """Genes that the network was trained on beside its panel."""
    training = config["training"]
    names = (training.get("auxiliary") or {}).get("genes", []) if isinstance(training, dict) else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected names of auxiliary genes in {path / CONFIG}; found {names!r}")
    return names


def _numbers(value: Any) -> Iterator[int]:
    """Whole numbers within plain values."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


@contextmanager
def tensor_limit(n: int) -> Iterator[None]:
    """Raise `ValueError` when this thread gives more than `n` tensors to modules."""
    from torch.nn.modules import module

    thread, made = threading.get_ident(), []

    def count(*_: Any) -> None:
        if threading.get_ident() == thread:
            made.append(1)
            if len(made) > n:
                raise ValueError(f"more than {n} tensors, far more than there are weights")

    hooks = [
        module.register_module_parameter_registration_hook(count),
        module.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a saved model from another one at the same path."""
    try:
        found = (path / CONFIG).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _escaped(gene: str) -> str:
    """A name in one line, whatever it holds."""
    return gene.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _plain(line: str) -> str:
    parts = (part.replace("\\n", "\n").replace("\\r", "\r") for part in line.split("\\\\"))
    return "\\".join(parts)
