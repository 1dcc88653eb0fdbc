"""A trained network with everything needed to use it elsewhere: target, inputs, units, history."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._atomic import write_directory
from stpredict.training._digests import check_files, file_digests
from stpredict.training._facts import TrainingFacts
from stpredict.training.targets import ExpressionTarget, Target, target_from_dict

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.models import Predictor

_FORMAT = 2
_ENTRIES = ("format", "model", "hyperparameters", "widths", "target", "features", "training", "baselines", "files")
_WEIGHTS, _PANEL, _HISTORY = "weights.safetensors", "panel.tsv", "history.csv"


@dataclass
class FittedModel:
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
        return dict(self.target.normalization) if isinstance(self.target, ExpressionTarget) else {}

    def __repr__(self) -> str:
        people = self.training.patients
        what = "gene" if isinstance(self.target, ExpressionTarget) else "output"
        return (
            f"FittedModel({self.model!r}, {len(self.panel)} {what}{'s' if len(self.panel) != 1 else ''}, trained on "
            f"{self.training.n_obs} observations of {len(people)} patient{'s' if len(people) != 1 else ''})"
        )

    def save(self, path: str | Path) -> Path:
        """Write the model to a directory: `config.json`, `weights.safetensors`, `panel.tsv`, `history.csv`.

        `config.json` holds the digests of the other files, and :meth:`load` refuses what does not match.
        Everything is written beside the target first and then moved into place, so that an interrupted save leaves
        the earlier model, or none.

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
        """
        return write_directory(Path(path), "config.json", self.write)

    def write(self, directory: Path) -> None:
        """Write the files of :meth:`save` into a directory that is there, or is made."""
        from safetensors.torch import save_file

        from stpredict import __version__

        directory.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous().clone() for k, v in self.network.state_dict().items()}, directory / _WEIGHTS)
        (directory / _PANEL).write_text(
            "gene\n" + "".join(f"{_escaped(gene)}\n" for gene in self.panel), encoding="utf-8"
        )
        self.history.to_csv(directory / _HISTORY, index=False)
        for name, baseline in self.baselines.items():
            baseline.write(directory / "baselines" / name)
        # Those of the baselines stand in their own configurations.
        files = [_WEIGHTS, _PANEL, _HISTORY, *(f"baselines/{name}/config.json" for name in sorted(self.baselines))]
        config = {
            "format": _FORMAT,
            "stpredict_version": __version__,
            "model": self.model,
            "hyperparameters": asdict(self.network.config),
            "widths": dict(self.network.shape.widths),
            "target": self.target.to_dict(),
            "features": self.features,
            "training": asdict(self.training),
            "baselines": sorted(self.baselines),
            "files": file_digests(directory, files),
        }
        (directory / "config.json").write_text(json.dumps(config, indent=2))

    @classmethod
    def load(cls, path: str | Path) -> FittedModel:
        """Read a model that :meth:`save` wrote; nothing is unpickled.

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
        ValueError
            When a file is damaged, truncated or another than the one that was saved, weights are not finite, or the parts
            do not belong together.
        """
        import numpy as np
        import pandas as pd

        from stpredict.core._read_weights import read_weights
        from stpredict.models import INPUTS, Panel, build

        path = Path(path)
        for name in ("config.json", _PANEL, _WEIGHTS):
            if not (path / name).is_file():
                raise FileNotFoundError(
                    f"expected a saved model in {path}; found no {name}; save one with FittedModel.save or stp.tl.fit"
                )
        try:
            config = json.loads((path / "config.json").read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"expected a complete config.json in {path}; found a damaged one ({error})") from error
        missing = [name for name in _ENTRIES if name not in config] if isinstance(config, dict) else list(_ENTRIES)
        if missing:
            raise ValueError(
                f"expected a complete config.json in {path}; found one without {', '.join(missing)}; save it anew"
            )
        if config["format"] != _FORMAT:
            raise ValueError(f"expected a model of format {_FORMAT} in {path}; found {config['format']!r}")
        outside = [name for name in config["baselines"] if Path(name).name != name or name in {".", ".."}]
        if outside:
            raise ValueError(f"expected plain names of baselines in {path}; found {outside[0]!r}")
        check_files(path, (_PANEL, _HISTORY), config["files"])
        panel = [_plain(line) for line in (path / _PANEL).read_text(encoding="utf-8").split("\n")[1:-1]]
        widths = config["widths"]
        # Tables of genes are among the weights; here they only have to have their size.
        tables = {n: np.zeros((len(panel), w), np.float32) for n, w in widths.items() if INPUTS[n].axis == "gene"}
        try:
            network = build(
                config["model"], len(panel), widths,
                genes=Panel(tuple(panel), tables), hyperparameters=config["hyperparameters"], seed=0,
            )  # fmt: skip
        except TypeError as error:
            raise ValueError(f"expected a configuration that fits the network in {path}; {error}") from error
        state = read_weights(path / _WEIGHTS)
        network.make_room(state)
        wanted = network.state_dict()
        differing = sorted(
            key
            for key in wanted.keys() | state.keys()
            if key not in wanted or key not in state or wanted[key].shape != state[key].shape
        )
        if differing:
            raise ValueError(
                f"expected weights of model {config['model']!r} for {len(panel)} genes in {path}; "
                f"found {len(differing)} tensors that do not fit (first: {differing[0]})"
            )
        baselines = {name: cls.load(path / "baselines" / name) for name in config["baselines"]}
        check_files(path, (_WEIGHTS, *(f"baselines/{name}/config.json" for name in baselines)), config["files"])
        unusable = sorted(name for name, value in state.items() if not value.isfinite().all())
        if unusable:
            raise ValueError(
                f"expected finite weights in {path / _WEIGHTS}; found NaN or infinity in {len(unusable)} tensors (first: "
                f"{unusable[0]}); fit the model again"
            )
        network.load_state_dict(state)
        history = path / _HISTORY
        empty = not history.read_text().strip()
        return cls(
            model=config["model"],
            network=network.eval(),
            target=target_from_dict(config["target"], panel),
            features=config["features"],
            training=TrainingFacts.from_dict(config["training"]),
            history=pd.DataFrame() if empty else pd.read_csv(history),
            baselines=baselines,
        )


def _escaped(gene: str) -> str:
    """A name in one line, whatever it holds."""
    return gene.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _plain(line: str) -> str:
    parts = (part.replace("\\n", "\n").replace("\\r", "\r") for part in line.split("\\\\"))
    return "\\".join(parts)
