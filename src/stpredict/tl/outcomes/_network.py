"""The network of an outcome: how it is fitted, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._device import seed_torch
from stpredict.core._optional import mend_torchvision
from stpredict.core._validate import check_choice

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from stpredict.models import Predictor
    from stpredict.tl.outcomes._cohort import Cohort
    from stpredict.tl.outcomes._maps import DenseMaps
    from stpredict.training import ArraySet, TrainConfig
    from stpredict.training.targets import Target

NETWORK = "convnext"
#: Batches of whole risk sets for times; the batches of the published model for classes. The Cox loss of tens of patients
#: grows with the spread of the risks while their order still gets better, hence the C-index.
_TRAINING: dict[str, dict[str, Any]] = {
    "follow_up": {"learning_rate": 2e-2, "batch_size": 100_000, "monitor": "correlation"},
    "classes": {"learning_rate": 5e-3, "batch_size": 20},
}
_PAPER = {"follow_up": "survival", "classes": "response"}
_COMMON = {"max_epochs": 200, "patience": 20, "weight_decay": 0.05}
#: Two small stages: the four of the published networks fit the noise of cohorts of tens of patients.
_SMALL: dict[str, Any] = {"depths": (1, 1), "dims": (8, 16), "drop_path": 0.1}
#: Networks on maps, with what is other than their own defaults here.
NETWORKS: dict[str, dict[str, Any]] = {NETWORK: _SMALL, "super_patches": {}}
_GIVEN = frozenset({"shape", "mask", "n_clinical", "class_weights", "lattice"})  # follow from the data


@dataclass
class NetworkFit:
    """A fitted network and how it came out.

    Attributes
    ----------
    network
        The network in evaluation mode, on the CPU.
    score
        Log risk or logit of every slide (n,), those that were not fitted on included.
    history
        One row per epoch and inner fold (-1: the fit on all of them).
    chosen
        Best number of epochs of each inner fold; empty without early stopping.
    n_epochs
        Epochs behind the weights.
    """

    network: Predictor
    score: np.ndarray
    history: pd.DataFrame
    chosen: list[int]
    n_epochs: int


def chosen_network(hyperparameters: Mapping[str, Any] | str | None) -> tuple[str, Mapping[str, Any] | str | None]:
    """Name of the network, and its hyperparameters or preset, from what a call says of both."""
    if isinstance(hyperparameters, str):
        name, _, preset = hyperparameters.partition(":")
        return (name, preset or None) if name in NETWORKS else (NETWORK, hyperparameters)
    options = dict(hyperparameters or {})
    return check_choice(options.pop("network", NETWORK), tuple(NETWORKS), "hyperparameters['network']"), options


def outcome_settings(
    target: Target, network: str, hyperparameters: Mapping[str, Any] | str | None, training: Mapping[str, Any]
) -> tuple[dict[str, Any], TrainConfig]:
    """Hyperparameters of a network and settings of its training, checked."""
    from stpredict.models import build, get_model
    from stpredict.training import TrainConfig

    info = get_model(network)
    if hyperparameters == "paper" and network == NETWORK:  # which has a network for each kind of outcome
        hyperparameters = _PAPER[target.kind]
    options = info.options(hyperparameters)
    known = [name for name in info.config.__dataclass_fields__ if name not in _GIVEN]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"expected hyperparameters among {', '.join(known)}; found {', '.join(unknown)}")
    sizes = NETWORKS[network] | options
    # Sizes that do not fit each other are found before anything is read.
    build(network, 1, {"tokens": 1}, hyperparameters={"shape": (1, 1), **sizes}, seed=0)
    own = _COMMON | _TRAINING[target.kind] | dict(info.preset(hyperparameters).training)
    config = TrainConfig().updated(own).updated(training)
    if config.monitor == "loss_then_correlation":
        raise ValueError("expected training['monitor'] to be 'loss' or 'correlation'; found 'loss_then_correlation'")
    return sizes, config


def map_arrays(maps: DenseMaps, covariates: np.ndarray, patient: np.ndarray, cohort: Cohort | None = None) -> ArraySet:
    """Slides as the training loop reads them: their cells are the tokens of bags; with the outcome of a cohort."""
    from stpredict.training import ArraySet

    return ArraySet(
        section=np.zeros(len(patient), dtype=np.int64),  # slides are compared with each other
        patient=np.unique(patient, return_inverse=True)[1],
        inputs={"features": covariates, "tokens": maps.values, "token_size": maps.tissue},
        target=None if cohort is None else cohort.values,
        kind=None if cohort is None else cohort.target,
        unit="slide",
    )


def fit_network(
    cohort: Cohort,
    covariates: np.ndarray,
    train: np.ndarray,
    inner: np.ndarray,
    *,
    name: str,
    sizes: Mapping[str, Any],
    config: TrainConfig,
    device: torch.device,
    seed: int,
    n_epochs: int | None = None,
) -> NetworkFit:
    """Choose the number of epochs on the inner folds, fit the whole training side, and score every slide.

    Parameters
    ----------
    cohort
        All slides.
    covariates
        Encoded covariates (n, n_clinical) of all slides.
    train
        Slides to fit on (n,); the outcome of no other is read.
    inner
        Inner fold of each of them; not used where the number of epochs is known.
    name
        The network.
    sizes, config
        Hyperparameters and training settings, as :func:`outcome_settings` returned them.
    device, seed
        Device to train on, and the random seed of weights and order.
    n_epochs
        Number of epochs; when `None` the inner folds choose it, or it is `config.max_epochs` where `config.patience` is
        0.
    """
    import pandas as pd
    import torch

    from stpredict.models import Stage, build
    from stpredict.training import predict_arrays
    from stpredict.training._data import summarize

    mend_torchvision()
    from stpredict.training._loop import run_epochs

    data = map_arrays(cohort.maps, covariates, cohort.patient, cohort)
    options: dict[str, Any] = {
        "shape": cohort.maps.shape, "mask": cohort.maps.mask, "n_clinical": covariates.shape[1],
        "class_weights": () if cohort.is_risk else _even_weights(cohort.values[train]), "lattice": cohort.maps.lattice,
    }  # fmt: skip
    widths = {"tokens": cohort.maps.values.shape[2], "features": covariates.shape[1]}
    training = data.take(train)

    def run(
        part: ArraySet, validation: ArraySet | None = None, n_epochs: int | None = None
    ) -> tuple[Predictor, pd.DataFrame, int]:
        seed_torch(seed)
        network = build(name, 1, widths, hyperparameters=options | dict(sizes))
        network.prepare(summarize(part, network.needs))
        history, behind = run_epochs(
            network, part, validation, config, n_epochs=n_epochs,
            stage=Stage(), device=device, seed=seed, directory=None,
        )  # fmt: skip
        return network, history, behind

    histories, chosen = [], []
    with torch.random.fork_rng(devices=[]):
        for number in np.unique(inner) if config.patience > 0 and n_epochs is None else ():
            _, history, best = run(training.take(inner != number), training.take(inner == number))
            histories.append(history.assign(inner=number))
            chosen.append(best)
        n_epochs = int(np.median(chosen)) if chosen else n_epochs or config.max_epochs
        network, history, _ = run(training, n_epochs=n_epochs)
    histories.append(history.assign(inner=-1))
    score = predict_arrays(network, data, batch_size=64, device=device).mean
    return NetworkFit(
        network, score[:, 0].astype(np.float64), pd.concat(histories, ignore_index=True), chosen, n_epochs
    )


def _even_weights(label: np.ndarray) -> tuple[float, ...]:
    """Weights with which both classes weigh the same."""
    share = np.bincount(label, minlength=2) / len(label)
    return tuple((0.5 / share).tolist())
