"""Fit any registered network to arrays: the part of fitting that knows no container."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stpredict._optional import mend_torchvision
from stpredict.models import Batch, Prediction, Predictor, get_model
from stpredict.training._config import TrainConfig
from stpredict.training._data import ArraySet, summarize
from stpredict.training._validation import inner_split

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Fit:
    """A trained network and how it came out.

    Attributes
    ----------
    network
        In evaluation mode, on the CPU.
    history
        One row per epoch and phase; empty for closed-form networks.
    validated_on
        What the inner validation held out: `"patient"`, `"section"`, `"stripe"`, `"none"`.
    n_epochs
        Epochs behind the weights.
    """

    network: Predictor
    history: pd.DataFrame
    validated_on: str
    n_epochs: int


def train_config(model: str, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Training settings of a model: the loop's defaults, the network's own, then the changes."""
    return TrainConfig().updated(get_model(model).cls.training_defaults).updated(changes or {})


def build_network(
    model: str, hyperparameters: Mapping[str, Any], n_genes: int, n_features: int, seed: int
) -> Predictor:
    """Build a network with weights drawn from `seed`, leaving the global random state as it was."""
    info = get_model(model)
    config = info.configure(dict(hyperparameters))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return info.cls(config, n_genes, n_features)


def fit_arrays(
    model: str,
    data: ArraySet,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    config: TrainConfig | None = None,
    device: torch.device | None = None,
    seed: int = 0,
    checkpoint_dir: Path | None = None,
    progress: bool = False,
) -> Fit:
    """Train a network on arrays.

    Parameters
    ----------
    model
        Registered name.
    data
        Training rows with a target.
    hyperparameters
        Of the network.
    config
        Of the training loop; the network's defaults when `None`.
    device
        Where to train; the CPU when `None`.
    seed
        Of weights, order, dropout, augmentation and the inner split.
    checkpoint_dir
        Keep checkpoints here and continue from them when the same fit is asked for again.
    progress
        Show a progress bar.
    """
    import pandas as pd

    device = device or torch.device("cpu")
    config = config or train_config(model)
    assert data.target is not None
    n_genes = data.target.shape[1]
    network = build_network(model, hyperparameters or {}, n_genes, data.n_features, seed)
    if network.closed_form:
        network.prepare(summarize(data))
        network.finish(data.batch(np.arange(len(data)), network.needs))
        return Fit(network.eval(), pd.DataFrame(), "none" if model == "mean" else "grouped folds", 0)

    mend_torchvision()
    from stpredict.training._loop import run_epochs

    held_out, unit = (np.zeros(len(data), dtype=bool), "none")
    if config.patience > 0:
        held_out, unit = inner_split(data, config.validation_fraction, seed)
    with tempfile.TemporaryDirectory(prefix="stpredict-") as scratch, torch.random.fork_rng(devices=[]):
        root = Path(scratch)
        if checkpoint_dir is not None:
            root = checkpoint_dir / _digest(model, hyperparameters or {}, config, seed, data)
        phases = [("inner", data.take(~held_out), data.take(held_out) if held_out.any() else None, config)]
        histories = []
        n_epochs = config.max_epochs
        for phase, train, validation, settings in phases:
            torch.manual_seed(seed)
            if phase == "refit":
                network = build_network(model, hyperparameters or {}, n_genes, data.n_features, seed)
            network.load_initial_weights()
            network.prepare(summarize(train))
            history, n_epochs = run_epochs(
                network,
                train,
                validation,
                settings,
                device=device,
                seed=seed,
                directory=root / phase,
                resume=checkpoint_dir is not None,
                progress=progress,
            )
            histories.append(history.assign(phase=phase))
            if phase == "inner" and config.refit and validation is not None:
                phases.append(("refit", data, None, config.updated({"max_epochs": n_epochs, "patience": 0})))
        if type(network).finish is not Predictor.finish:  # spare the others a batch of everything
            network.finish(data.batch(np.arange(len(data)), network.needs))
    return Fit(network.eval(), pd.concat(histories, ignore_index=True), unit, n_epochs)


def _digest(model: str, hyperparameters: Mapping[str, Any], config: TrainConfig, seed: int, data: ArraySet) -> str:
    """Name of the checkpoint folder of a fit: the same only for the same network, settings and data."""
    assert data.target is not None
    digest = hashlib.sha256(
        json.dumps([model, dict(hyperparameters), asdict(config), seed], sort_keys=True, default=str).encode()
    )
    for values in (data.section, data.patient, data.positions, data.target, data.features):
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())
    return f"{model}-{digest.hexdigest()[:16]}"


def predict_arrays(
    network: Predictor,
    data: ArraySet,
    *,
    batch_size: int = 512,
    device: torch.device | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predict every row.

    Parameters
    ----------
    network
        Trained network; it is put into evaluation mode and left on the CPU.
    data
        Rows; the target is not read.
    batch_size
        Rows per step, which changes memory and speed only.
    device
        Where to predict.
    progress
        Show a progress bar.

    Returns
    -------
    Mean (n, n_genes) float32, and the standard deviation of the same shape or `None`.
    """
    device = device or torch.device("cpu")
    network.eval().to(device)
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    rows = np.arange(len(data))
    unit = network.unit
    groups: Any = (
        [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        if unit == "spot"
        else [np.flatnonzero(data.section == code) for code in np.unique(data.section)]
    )
    if progress:
        from tqdm.auto import tqdm

        groups = tqdm(groups, desc="predict", unit="batch")
    with torch.inference_mode():
        for index in groups:
            batch: Batch = data.batch(index, network.needs).to(device)
            batch.target = None
            prediction: Prediction = network(batch)
            if mean is None:
                mean = np.empty((len(data), prediction.mean.shape[1]), dtype=np.float32)
                std = np.empty_like(mean) if prediction.std is not None else None
            mean[index] = prediction.mean.float().cpu().numpy()
            if std is not None and prediction.std is not None:
                std[index] = prediction.std.float().cpu().numpy()
    network.to("cpu")
    assert mean is not None
    return mean, std
