"""Fit any registered network to arrays: the part of fitting that knows no container."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from stpredict.core._optional import mend_torchvision
from stpredict.models import Batch, Prediction, Predictor, get_model
from stpredict.training._config import TrainConfig
from stpredict.training._data import ArraySet, row_groups, summarize
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


#: An outcome is one number per patient: batches of whole risk sets, more patients to choose the epoch on, shrinkage.
_OUTCOME_DEFAULTS: dict[str, Any] = {
    "batch_size": 256, "monitor": "loss", "weight_decay": 1e-2, "optimizer": "adamw", "validation_fraction": 0.25,
}  # fmt: skip


#: Bags or sections of grids per step without gradients; 512 rows otherwise.
_PER_STEP = {"bag": 64, "grid": 1}


def train_config(model: str, changes: Mapping[str, Any] | None = None, *, outcome: bool = False) -> TrainConfig:
    """Training settings of a model: the loop's defaults, the network's own, those for outcomes, then the changes."""
    own = TrainConfig().updated(get_model(model).cls.training_defaults)
    config = own.updated(_OUTCOME_DEFAULTS if outcome else {}).updated(changes or {})
    _check_monitor(model, config)
    return config


def _check_monitor(model: str, config: TrainConfig) -> None:
    """Raise where the epoch would be chosen by something that the network has no value of before it is trained."""
    known = get_model(model).cls.monitors
    if config.monitor not in known:
        raise ValueError(
            f"expected monitor={' or '.join(map(repr, known))} for model {model!r}, which predicts nothing until its "
            f"training has ended; found {config.monitor!r}"
        )


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
    init: Predictor | None = None,
    checkpoint_dir: Path | None = None,
    progress: bool = False,
) -> Fit:
    """Train a network on arrays.

    Parameters
    ----------
    model
        Registered name.
    data
        Training rows with a target or an outcome.
    hyperparameters
        Of the network.
    config
        Of the training loop; the network's defaults when `None`.
    device
        Where to train; the CPU when `None`.
    seed
        Of weights, order, dropout, augmentation and the inner split.
    init
        Network of the same kind to start from; its head is left behind.
    checkpoint_dir
        Keep checkpoints here and continue from them when the same fit is asked for again.
    progress
        Show a progress bar.
    """
    import pandas as pd

    device = device or torch.device("cpu")
    config = config or train_config(model)
    _check_monitor(model, config)
    needs = get_model(model).reads(dict(hyperparameters or {}))

    def build() -> Predictor:
        network = build_network(model, hyperparameters or {}, data.n_outputs, data.n_features(needs), seed)
        if init is not None:
            network.start_from(init)
        return network

    network = build()
    if network.closed_form:
        network.prepare(summarize(data, needs))
        network.finish([data.batch(np.arange(len(data)), needs)])
        return Fit(network.eval(), pd.DataFrame(), "none" if model == "mean" else "grouped folds", 0)

    mend_torchvision()
    from stpredict.training._loop import run_epochs

    held_out, unit = (np.zeros(len(data), dtype=bool), "none")
    if config.patience > 0:
        held_out, unit = inner_split(data, config.validation_fraction, seed)
    with tempfile.TemporaryDirectory(prefix="stpredict-") as scratch, torch.random.fork_rng(devices=[]):
        root = Path(scratch)
        if checkpoint_dir is not None:
            root = checkpoint_dir / _digest(model, hyperparameters or {}, config, seed, data, init)
        phases = [("inner", data.take(~held_out), data.take(held_out) if held_out.any() else None, config)]
        histories = []
        n_epochs = config.max_epochs
        for phase, train, validation, settings in phases:
            torch.manual_seed(seed)
            if phase == "refit":
                network = build()
            if init is None:
                network.load_initial_weights()
            network.prepare(summarize(train, needs))
            show_rows(network, "remember", train, device)
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
        show_rows(network, "finish", data, device)
    return Fit(network.eval(), pd.concat(histories, ignore_index=True), unit, n_epochs)


def show_rows(network: Predictor, step: Literal["remember", "finish"], data: ArraySet, device: torch.device) -> None:
    """Let a network look at training rows in a step that it defines: before the gradient steps, or after them."""
    if getattr(type(network), step) is getattr(Predictor, step):
        return
    mode = network.training
    network.eval().to(device)
    with torch.no_grad():
        groups = row_groups(data, network.unit, _PER_STEP.get(network.unit, 512))
        getattr(network, step)(data.batch(index, network.needs).to(device) for index in groups)
    network.train(mode).to("cpu")


def untrained(model: str, data: ArraySet, *, hyperparameters: Mapping[str, Any], seed: int) -> Fit:
    """Draw a network, give it the scales of the training set, and leave it at that: the weakest comparator.

    A head that starts at zero would predict the same for everybody, so it is drawn as well.
    """
    import pandas as pd

    needs = get_model(model).reads(dict(hyperparameters))
    network = build_network(model, hyperparameters, data.n_outputs, data.n_features(needs), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in network.named_modules():
            if name.split(".")[0] == "head" and isinstance(module, torch.nn.Linear):
                module.reset_parameters()
    network.prepare(summarize(data, needs))
    show_rows(network, "remember", data, torch.device("cpu"))
    show_rows(network, "finish", data, torch.device("cpu"))
    return Fit(network.eval(), pd.DataFrame(), "none", 0)


def _digest(
    model: str,
    hyperparameters: Mapping[str, Any],
    config: TrainConfig,
    seed: int,
    data: ArraySet,
    init: Predictor | None,
) -> str:
    """Name of the checkpoint folder of a fit: the same only for the same network, settings, start and data."""
    digest = hashlib.sha256(
        json.dumps([model, dict(hyperparameters), asdict(config), seed], sort_keys=True, default=str).encode()
    )
    arrays = [data.section, data.patient, data.positions, data.target, data.features, data.bag, data.bag_size]
    arrays += [data.time, data.event, data.counts, data.size_factor, data.label, data.cell]
    if init is not None:
        arrays += [tensor.numpy() for _, tensor in sorted(init.state_dict().items())]
    for values in arrays:
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())
    return f"{model}-{digest.hexdigest()[:16]}"


def predict_arrays(
    network: Predictor,
    data: ArraySet,
    *,
    batch_size: int | None = None,
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
        Rows (or bags, or sections of grids) per step, which changes memory and speed only; 512, 64 and 1 when `None`.
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
    groups: Any = row_groups(data, network.unit, batch_size or _PER_STEP.get(network.unit, 512))
    if progress and len(groups) > 1:
        from tqdm.auto import tqdm

        groups = tqdm(groups, desc="predict", unit="batch")
    with torch.inference_mode():
        for index in groups:
            batch: Batch = data.batch(index, network.needs).to(device)
            batch.target = batch.counts = batch.size_factor = batch.time = batch.event = None
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
