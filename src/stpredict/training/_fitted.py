"""A trained network with everything needed to use it elsewhere: panel, units, inputs, history."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._atomic import write_directory

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.models import Predictor

_FORMAT = 1
_ENTRIES = ("format", "model", "hyperparameters", "n_features", "normalization", "features", "training", "baselines")


@dataclass
class FittedModel:
    """What :func:`stpredict.tl.fit` returns.

    Attributes
    ----------
    model
        Registered name of the network.
    network
        The trained network, on the CPU, in evaluation mode.
    panel
        Genes in the order of the network's outputs.
    normalization
        How the training target was normalized (`uns["stpredict"]["normalize"]`).
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
    panel: list[str]
    normalization: dict[str, Any]
    features: dict[str, Any]
    training: dict[str, Any]
    history: pd.DataFrame
    baselines: dict[str, FittedModel] = field(default_factory=dict)

    def __repr__(self) -> str:
        people = self.training["patients"]
        return (
            f"FittedModel({self.model!r}, {len(self.panel)} genes, trained on {self.training['n_obs']} observations "
            f"of {len(people)} patient{'s' if len(people) != 1 else ''})"
        )

    def save(self, path: str | Path) -> Path:
        """Write the model to a directory: `config.json`, `weights.safetensors`, `panel.tsv`, `history.csv`.

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
        return write_directory(Path(path), "config.json", self._write)

    def _write(self, directory: Path) -> None:
        from safetensors.torch import save_file

        from stpredict import __version__

        directory.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.contiguous().clone() for k, v in self.network.state_dict().items()}, directory / "weights.safetensors"
        )
        config = {
            "format": _FORMAT,
            "stpredict_version": __version__,
            "model": self.model,
            "hyperparameters": asdict(self.network.config),
            "n_features": self.network.n_features,
            "normalization": self.normalization,
            "features": self.features,
            "training": self.training,
            "baselines": sorted(self.baselines),
        }
        (directory / "config.json").write_text(json.dumps(config, indent=2))
        (directory / "panel.tsv").write_text("gene\n" + "".join(f"{gene}\n" for gene in self.panel))
        self.history.to_csv(directory / "history.csv", index=False)
        for name, baseline in self.baselines.items():
            baseline._write(directory / "baselines" / name)

    @classmethod
    def load(cls, path: str | Path) -> FittedModel:
        """Read a model that :meth:`save` wrote; nothing is unpickled.

        Parameters
        ----------
        path
            The directory.

        Raises
        ------
        FileNotFoundError
            When there is no model in the directory.
        ValueError
            When a file is damaged or truncated, or the parts do not belong together.
        """
        import pandas as pd

        from stpredict.core._read_weights import read_weights
        from stpredict.training._fit_arrays import build_network

        path = Path(path)
        for name in ("config.json", "panel.tsv", "weights.safetensors"):
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
            raise ValueError(f"expected a complete config.json in {path}; found one without {', '.join(missing)}")
        if config["format"] != _FORMAT:
            raise ValueError(f"expected a model of format {_FORMAT} in {path}; found {config['format']!r}")
        panel = (path / "panel.tsv").read_text().splitlines()[1:]
        network = build_network(config["model"], config["hyperparameters"], len(panel), config["n_features"], 0)
        state = read_weights(path / "weights.safetensors")
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
        network.load_state_dict(state)
        history = path / "history.csv"
        empty = not history.is_file() or not history.read_text().strip()
        return cls(
            model=config["model"],
            network=network.eval(),
            panel=panel,
            normalization=config["normalization"],
            features=config["features"],
            training=config["training"],
            history=pd.DataFrame() if empty else pd.read_csv(history),
            baselines={name: cls.load(path / "baselines" / name) for name in config["baselines"]},
        )
