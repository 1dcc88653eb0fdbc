"""What nested cross-validation of an outcome found, and the models that go to another cohort."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._atomic import write_directory

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.models._convnext import ConvNeXt

_FORMAT = 1
_CONFIG, _WEIGHTS, _BASELINES = "config.json", "weights.safetensors", "baselines.safetensors"
_ENTRIES = ("outcome", "keys", "classes", "maps", "clinical", "training")
_NETWORK = ("hyperparameters", "n_channels")


@dataclass(frozen=True)
class OutcomeModel:
    """A network on maps, fitted to all patients of a cohort, with everything needed to use it on another.

    Attributes
    ----------
    network
        On the CPU, in evaluation mode; it holds the scale of the channels.
    outcome
        `"survival"` or `"response"`.
    keys
        Columns of the outcome.
    classes
        The two classes, the predicted one last; empty for survival.
    maps
        Slots, number, names and making of the channels, and the shape of the training maps.
    clinical
        Columns of the covariates, their scale and their categories.
    training
        Patients, slides, settings, seed, number of epochs, and mean and median of the risk by model.
    baselines
        Coefficients (d,) and, last, the intercept of each linear baseline.
    """

    network: ConvNeXt
    outcome: str
    keys: list[str]
    classes: list[str]
    maps: dict[str, Any]
    clinical: dict[str, Any]
    training: dict[str, Any]
    baselines: dict[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"OutcomeModel({self.outcome!r}, {self.maps['n_channels']} channels, "
            f"trained on {len(self.training['samples'])} slides of {len(self.training['patients'])} patients)"
        )


@dataclass(frozen=True)
class OutcomeResult:
    """What :func:`stpredict.tl.fit_outcome` returns.

    Attributes
    ----------
    scores
        One row per model; `"convnext"` is the network, all others are baselines.
    predictions
        Out of fold, one row per slide and one column per model: log risk, or probability of the second class.
    history
        One row per epoch, inner fold (-1: the fit on all inner folds) and outer fold of the network (-1: the fit on all
        patients).
    model
        The models fitted on all patients, for :func:`stpredict.tl.predict_outcome`; no score is of them.
    """

    scores: pd.DataFrame
    predictions: pd.DataFrame
    history: pd.DataFrame
    model: OutcomeModel

    def save(self, path: str | Path) -> Path:
        """Write models and tables to a directory.

        Everything is written beside the target first and then moved into place, so that an interrupted save leaves the
        earlier result, or none.

        Parameters
        ----------
        path
            Directory; a result that is there is replaced, any other directory with files in it is an error.

        Returns
        -------
        The directory, with `config.json`, `weights.safetensors`, `baselines.safetensors`, `scores.csv`,
        `predictions.csv` and `history.csv`.

        Raises
        ------
        FileExistsError
            When the directory holds files but no model.
        """
        return write_directory(Path(path), _CONFIG, self._write)

    def _write(self, directory: Path) -> None:
        from safetensors.numpy import save_file as save_arrays
        from safetensors.torch import save_file

        from stpredict import __version__

        model = self.model
        state = {name: tensor.contiguous().clone() for name, tensor in model.network.state_dict().items()}
        save_file(state, directory / _WEIGHTS)
        save_arrays(model.baselines, directory / _BASELINES)
        self.scores.to_csv(directory / "scores.csv", index=False)
        self.predictions.to_csv(directory / "predictions.csv", index_label="slide")
        self.history.to_csv(directory / "history.csv", index=False)
        config = {
            "format": _FORMAT,
            "kind": "outcome",
            "stpredict_version": __version__,
            "hyperparameters": asdict(model.network.config),
            "n_channels": model.network.n_features,
        }
        config |= {name: getattr(model, name) for name in _ENTRIES}
        (directory / _CONFIG).write_text(json.dumps(config, indent=2))

    @classmethod
    def load(cls, path: str | Path) -> OutcomeResult:
        """Read a result that :meth:`save` wrote; nothing is unpickled.

        Parameters
        ----------
        path
            The directory.

        Raises
        ------
        FileNotFoundError
            When there is no such result in the directory.
        ValueError
            When a file is damaged or truncated, or the parts do not belong together.
        """
        import pandas as pd
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(path)
        for name in (_CONFIG, _WEIGHTS, _BASELINES, "scores.csv", "predictions.csv", "history.csv"):
            if not (path / name).is_file():
                raise FileNotFoundError(
                    f"expected a saved outcome in {path}; found no {name}; save one with OutcomeResult.save"
                )
        config = _read_config(path)
        network = _read_network(path, config)
        try:
            baselines = load_file(path / _BASELINES)
            tables = [
                pd.read_csv(path / f"{name}.csv", float_precision="round_trip", dtype={"slide": str})
                for name in ("scores", "predictions", "history")
            ]
        except (SafetensorError, ValueError) as error:
            raise ValueError(
                f"expected complete tables and baselines in {path}; found damaged ones ({error})"
            ) from error
        scores, predictions, history = tables
        predictions = predictions.set_index("slide").rename_axis(None)
        return cls(
            scores,
            predictions,
            history,
            OutcomeModel(network=network, baselines=baselines, **{name: config[name] for name in _ENTRIES}),
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / _CONFIG).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a complete {_CONFIG} in {path}; found a damaged one ({error})") from error
    if not isinstance(config, dict) or config.get("kind") != "outcome":
        raise ValueError(
            f"expected an outcome of stp.tl.fit_outcome in {path}; found another model; read it with FittedModel.load"
        )
    missing = [name for name in (*_ENTRIES, *_NETWORK, "format") if name not in config]
    if missing:
        raise ValueError(f"expected a complete {_CONFIG} in {path}; found one without {', '.join(missing)}")
    if config["format"] != _FORMAT:
        raise ValueError(f"expected an outcome of format {_FORMAT} in {path}; found {config['format']!r}")
    return config


def _read_network(path: Path, config: dict[str, Any]) -> ConvNeXt:
    from stpredict.core._read_weights import read_weights
    from stpredict.models._convnext import ConvNeXt, ConvNeXtConfig

    given: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in config["hyperparameters"].items()
    }
    try:
        network = ConvNeXt(replace(ConvNeXtConfig((1, 1)), **given), 1, config["n_channels"])
    except TypeError as error:
        raise ValueError(f"expected hyperparameters of ConvNeXt V2 in {path / _CONFIG}; {error}") from error
    state, wanted = read_weights(path / _WEIGHTS), network.state_dict()
    differing = sorted(
        name
        for name in wanted.keys() | state.keys()
        if name not in wanted or name not in state or wanted[name].shape != state[name].shape
    )
    if differing:
        raise ValueError(
            f"expected weights for {config['n_channels']} channels in {path}; found {len(differing)} tensors that do "
            f"not fit (first: {differing[0]})"
        )
    network.load_state_dict(state)
    return network.eval()
