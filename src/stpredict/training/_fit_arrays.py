"""Fit any registered network to arrays: the part of fitting that knows no container."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from stpredict.core._device import seed_torch
from stpredict.core._optional import mend_torchvision
from stpredict.core._progress import epochs_bar
from stpredict.core._turns import tidy_folder, turn
from stpredict.models import Batch, Panel, Predictor, build, get_model
from stpredict.models.base._registry import Hyperparameters
from stpredict.training._auxiliary import AuxiliaryTraining, check_weighs_genes
from stpredict.training._config import TrainConfig
from stpredict.training._data import ArraySet, summarize
from stpredict.training._loader import row_blocks, row_groups
from stpredict.training._processes import check_processes, is_first
from stpredict.training._validation import inner_sides

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Fit:
    """A trained network and how it came out.

    Attributes
    ----------
    network
        The network in evaluation mode, on the CPU.
    history
        One row per epoch, stage and phase; empty for closed-form networks.
    validated_on
        What the inner validation held out: `"patient"`, `"chromosome"`, `"section"`, `"stripe"`, `"none"`.
    n_epochs
        Epochs behind the weights, those of the last stage.
    auxiliary
        What is to be said of auxiliary genes; empty without.
    """

    network: Predictor
    history: pd.DataFrame
    validated_on: str
    n_epochs: int
    auxiliary: dict[str, Any] = field(default_factory=dict)


def train_config(
    model: str,
    changes: Mapping[str, Any] | None = None,
    target: Any = None,
    hyperparameters: Hyperparameters = None,
) -> TrainConfig:
    """Training settings of a model.

    What comes later counts: the loop's defaults, the network's own, those of a preset, those of the target, the changes.

    Parameters
    ----------
    model
        Registered name.
    changes
        Departures from the defaults.
    target
        The target, or anything else with `training_defaults` of its own.
    hyperparameters
        Name of a preset whose training settings are taken, such as `"paper"`; a mapping of hyperparameters has none.

    Returns
    -------
    The settings.

    Raises
    ------
    TypeError
        For an unknown setting.
    ValueError
        When a setting has a value that it cannot have, there is no such preset, or the network has no value to choose
        the epoch by.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.training.train_config("egn").max_epochs
    50
    >>> stp.training.train_config("egn", {"gradient_clip": 0.5}, hyperparameters="paper").max_epochs
    300
    """
    info = get_model(model)
    own = TrainConfig().updated(info.cls.training_defaults).updated(info.preset(hyperparameters).training)
    config = own.updated({} if target is None else target.training_defaults).updated(changes or {})
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


def fit_arrays(
    model: str,
    data: ArraySet,
    *,
    hyperparameters: Hyperparameters = None,
    config: TrainConfig | None = None,
    device: torch.device | None = None,
    seed: int = 0,
    init: Predictor | None = None,
    checkpoint_dir: Path | None = None,
    progress: bool = False,
) -> Fit:
    """Train a network on arrays.

    A network with several stages goes through them one after the other. With inner validation the number of epochs of
    each is chosen on the patients held out; with `refit` all stages are then run once more on everything, for as many.

    Parameters
    ----------
    model
        Registered name.
    data
        Training rows with a target.
    hyperparameters
        Departures from the defaults of the network, or the name of a preset.
    config
        Settings of the training loop; those of the network, and of the preset, when `None`.
    device
        Device to train on; the CPU when `None`.
    seed
        Random seed for weights, order, dropout, augmentation and the inner split.
    init
        Network of the same kind to start from; its head is left behind.
    checkpoint_dir
        Directory to keep checkpoints in, and to continue from when the same fit is asked for again. Of two processes that
        ask for the same fit, one trains and the other waits for it. A directory that cannot be written costs a warning.
    progress
        Whether to show a progress bar.

    Returns
    -------
    The trained network, its history, and how its epoch was chosen.

    Raises
    ------
    KeyError
        When there is no such network.
    TypeError
        For unknown hyperparameters.
    ValueError
        When there is no target to learn from, the width of an input is missing, or the network has no value to choose
        the epoch by.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> section, features = np.arange(40) // 10, rng.normal(size=(40, 3)).astype(np.float32)
    >>> data = stp.training.ArraySet(
    ...     section, section, {"features": features}, target=features @ rng.normal(size=(3, 2))
    ... )
    >>> fit = stp.training.fit_arrays("ridge", data)
    >>> fit.validated_on, stp.training.predict_arrays(fit.network, data).mean.shape
    ('grouped folds', (40, 2))
    """
    import pandas as pd

    device = device or torch.device("cpu")
    config = config or train_config(model, target=data.kind, hyperparameters=hyperparameters)
    _check_monitor(model, config)
    info = get_model(model)
    check_weighs_genes(info, config)
    options = info.options(hyperparameters)
    needs = info.reads(options)

    def fresh() -> Predictor:
        network = _network(model, data, options, seed)
        if init is not None:
            network.start_from(init)
        return network

    network = fresh()
    if network.closed_form:
        data = data.only_labeled()
        network.prepare(summarize(data, needs))
        network.finish(row_blocks(data, needs))
        return Fit(network.eval(), pd.DataFrame(), "grouped folds" if needs else "none", 0)

    check_processes(config, data)
    mend_torchvision()
    helpers = None if config.auxiliary is None else AuxiliaryTraining(data, config, device)
    train, validation, unit = data, None, "none"
    if config.patience > 0:
        train, validation, unit = inner_sides(data, config.validation_fraction, seed)
    name = "" if checkpoint_dir is None else _digest(model, options, config, seed, data, init)
    with _checkpoints(checkpoint_dir, name, is_first(config)) as root, torch.random.fork_rng(devices=[]):
        if helpers is not None:
            train, validation = helpers.divide(train, validation, seed)
        where: dict[str, Any] = {
            "device": device, "seed": seed, "root": root, "load_weights": init is None, "helpers": helpers,
        }  # fmt: skip
        with epochs_bar(f"fit {model}", show=progress):
            histories, epochs = _run_stages(network, train, validation, config, "inner", **where)
            if helpers is not None:
                helpers.settle(histories[-1], epochs[-1])
            if validation is not None:
                show_rows(network, "calibrate", train.only_labeled(), validation.only_labeled(), device=device)
            if free := helpers is not None and config.gene_loss == "pearson":
                held_out = [] if validation is None else [validation.only_labeled()]
                show_rows(network, "learn_unit", train.only_labeled(), *held_out, device=device)
            if config.refit and validation is not None:
                inner, network = network, fresh()
                everything = data if helpers is None else helpers.training(data)
                histories += _run_stages(network, everything, None, config, "refit", epochs=epochs, **where)[0]
                network.take_calibration(inner)
                if free:
                    show_rows(network, "learn_unit", everything.only_labeled(), device=device)
        show_rows(network, "finish", data.only_labeled(), device=device)
    told = {} if helpers is None else helpers.facts(unit)
    if network.unit is not None:
        told["unit"] = network.unit.facts()
    return Fit(network.eval(), pd.concat(histories, ignore_index=True), unit, epochs[-1], told)


@contextmanager
def _checkpoints(folder: Path | None, name: str, first: bool) -> Iterator[Path | None]:
    """Where the checkpoints of a fit are kept, while no other process works there but those that train with the first."""
    if folder is None or not first:
        yield None if folder is None else folder / name
        return
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    tidy_folder(folder)
    with turn(folder / name):
        yield folder / name


def _network(model: str, data: ArraySet, hyperparameters: Hyperparameters, seed: int) -> Predictor:
    """Build a network that is told of the inputs it reads and of no others."""
    needs = get_model(model).reads(hyperparameters)
    widths = {name: width for name, width in data.widths.items() if name in needs}
    genes = Panel(data.genes.names, {name: table for name, table in data.genes.tables.items() if name in needs})
    network = build(model, data.n_outputs, widths, genes=genes, hyperparameters=hyperparameters, seed=seed)
    network.n_wanted = data.n_primary or data.n_outputs
    return network


def _run_stages(
    network: Predictor,
    train: ArraySet,
    validation: ArraySet | None,
    config: TrainConfig,
    phase: Literal["inner", "refit"],
    *,
    load_weights: bool,
    device: torch.device,
    seed: int,
    root: Path | None,
    helpers: AuxiliaryTraining | None,
    epochs: list[int] | None = None,
) -> tuple[list[pd.DataFrame], list[int]]:
    """Take a network through its stages, each for as many epochs as `epochs` says, or as the validation chooses.

    Returns
    -------
    History and number of epochs of each stage.
    """
    from stpredict.training._loop import run_epochs

    seed_torch(seed)
    if load_weights:
        network.load_initial_weights()
    network.prepare(summarize(train.only_labeled(), network.needs))
    show_rows(network, "remember", train.only_labeled(), device=device)
    histories, found = [], []
    several = len(network.stages) > 1
    for number, stage in enumerate(network.stages):
        settings = config.updated(stage.training)
        if epochs is not None:
            settings = replace(settings, patience=0)
        rows, held_out = train, validation
        if stage.labeled:
            rows, held_out = train.only_labeled(), None if validation is None else validation.only_labeled()
        if number:  # what a stage draws must not depend on where the one before has stopped
            seed_torch(seed + number)
        extra = [] if helpers is None else helpers.callbacks(rows, stage, seed)
        history, n_epochs = run_epochs(
            network, rows, held_out, settings, extra=extra,
            stage=stage, device=device, seed=seed,
            directory=None if root is None else root / f"{phase}{number or ''}",
            n_epochs=None if epochs is None else epochs[number],
            phase=", ".join([*([stage.name] if several else []), "training" if phase == "inner" else "refit on all"]),
        )  # fmt: skip
        histories.append(history.assign(phase=phase, **({"stage": stage.name} if several else {})))
        found.append(n_epochs)
    return histories, found


def show_rows(
    network: Predictor,
    step: Literal["remember", "calibrate", "learn_unit", "finish"],
    *sets: ArraySet,
    device: torch.device,
) -> None:
    """Let a network look at rows in a step that it defines, or that all have: before the gradient steps, or after them."""
    if step != "learn_unit" and getattr(type(network), step) is getattr(Predictor, step):
        return
    mode = network.training
    network.eval().to(device)

    def batches(data: ArraySet) -> Iterator[Batch]:
        for index in prediction_groups(network, data):
            yield data.batch(index, network.needs).to(device)

    with torch.no_grad():
        getattr(network, step)(*map(batches, sets))
    network.train(mode).to("cpu")


def prediction_groups(network: Predictor, data: ArraySet, batch_size: int | None = None) -> list[np.ndarray]:
    """Rows of each step without gradients."""
    size = batch_size or network.per_prediction
    if network.draws == "sections" and not network.several_sections:
        size = 1
    return row_groups(data, network.draws, size)


def untrained(model: str, data: ArraySet, *, hyperparameters: Hyperparameters, seed: int) -> Fit:
    """Draw a network and give it the scales of the training set, and nothing else: the weakest comparator.

    A head that starts at zero would predict the same for everybody, so it is drawn as well.

    Parameters
    ----------
    model
        Registered name.
    data
        Training rows with a target, which gives the start and the scale of the outputs.
    hyperparameters
        Departures from the defaults of the network, or the name of a preset.
    seed
        Random seed for the weights.

    Returns
    -------
    The network, without a history.

    Raises
    ------
    KeyError
        When there is no such network.
    ValueError
        When there is no target.
    """
    import pandas as pd

    data = data.only_labeled()
    network = _network(model, data, hyperparameters, seed)
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed)
        for name, module in network.named_modules():
            if name.split(".")[0] == "head" and isinstance(module, torch.nn.Linear):
                module.reset_parameters()
    network.prepare(summarize(data, network.needs))
    show_rows(network, "remember", data, device=torch.device("cpu"))
    show_rows(network, "finish", data, device=torch.device("cpu"))
    return Fit(network.eval(), pd.DataFrame(), "none", 0)


def _digest(
    model: str,
    options: Mapping[str, Any],
    config: TrainConfig,
    seed: int,
    data: ArraySet,
    init: Predictor | None,
) -> str:
    """Name of the checkpoint folder of a fit: the same only for the same network, settings, start and data."""
    settings = asdict(config)
    for setting in ("device", "devices", "strategy", "num_nodes", "num_workers"):
        del settings[setting]  # a fit goes on anywhere
    if config.n_processes > 1:  # which draw what one does not
        settings["n_processes"] = config.n_processes
    digest = hashlib.sha256(json.dumps([model, dict(options), settings, seed], sort_keys=True, default=str).encode())
    digest.update(data.digest().encode())
    if init is not None:
        for name, tensor in sorted(init.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return f"{model}-{digest.hexdigest()[:16]}"
