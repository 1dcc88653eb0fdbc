"""The network of an outcome: how it is fitted, and for how long."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._optional import mend_torchvision

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from stpredict.models._convnext import ConvNeXt
    from stpredict.tl.outcomes._cohort import Cohort
    from stpredict.tl.outcomes._maps import DenseMaps
    from stpredict.training import ArraySet, TrainConfig

NETWORK = "convnext"
#: Batches of whole risk sets for times; the batches of the published model for classes. The Cox loss of tens of patients
#: grows with the spread of the risks while their order still gets better, hence the C-index.
_TRAINING: dict[str, dict[str, Any]] = {
    "survival": {"learning_rate": 2e-2, "batch_size": 100_000, "monitor": "correlation"},
    "response": {"learning_rate": 5e-3, "batch_size": 20},
}
_COMMON = {"max_epochs": 200, "patience": 20, "weight_decay": 0.05}
#: Two small stages: with the four of the published networks cohorts of tens of patients are learned by heart.
_SMALL = {"depths": (1, 1), "dims": (8, 16), "drop_path": 0.1}
NETWORKS: dict[str, dict[str, Any]] = {"survival": _SMALL, "response": _SMALL}
_GIVEN = frozenset({"shape", "mask", "n_clinical", "class_weights", "lattice"})  # follow from the data


@dataclass
class NetworkFit:
    """A fitted network and how it came out.

    Attributes
    ----------
    network
        In evaluation mode, on the CPU.
    score
        Log risk or logit of every slide (n,), those that were not fitted on included.
    history
        One row per epoch and inner fold (-1: the fit on all of them).
    chosen
        Best number of epochs of each inner fold; empty without early stopping.
    n_epochs
        Epochs behind the weights.
    """

    network: ConvNeXt
    score: np.ndarray
    history: pd.DataFrame
    chosen: list[int]
    n_epochs: int


def outcome_settings(
    outcome: str, hyperparameters: Mapping[str, Any], training: Mapping[str, Any]
) -> tuple[dict[str, Any], TrainConfig]:
    """Hyperparameters of the network and settings of its training, checked."""
    from stpredict.models._convnext import ConvNeXt, ConvNeXtConfig
    from stpredict.training import TrainConfig

    known = [f.name for f in fields(ConvNeXtConfig) if f.name not in _GIVEN]
    unknown = sorted(set(hyperparameters) - set(known))
    if unknown:
        raise TypeError(f"expected hyperparameters among {', '.join(known)}; found {', '.join(unknown)}")
    sizes = NETWORKS[outcome] | dict(hyperparameters)
    ConvNeXt(
        ConvNeXtConfig((1, 1), **sizes), 1, 1
    )  # sizes that do not fit each other are found before anything is read
    config = TrainConfig().updated(_COMMON | _TRAINING[outcome]).updated(training)
    if config.monitor == "loss_then_correlation":
        raise ValueError("expected training['monitor'] to be 'loss' or 'correlation'; found 'loss_then_correlation'")
    return sizes, config


def map_arrays(maps: DenseMaps, covariates: np.ndarray, patient: np.ndarray, **outcome: Any) -> ArraySet:
    """Slides as the training loop reads them: their cells are the tokens of bags."""
    from stpredict.training import ArraySet

    return ArraySet(
        section=np.zeros(len(patient), dtype=np.int64),  # slides are compared with each other
        patient=np.unique(patient, return_inverse=True)[1],
        features=covariates,
        bag=maps.values,
        bag_size=maps.tissue,
        **outcome,
    )


def fit_network(
    cohort: Cohort,
    covariates: np.ndarray,
    train: np.ndarray,
    inner: np.ndarray,
    *,
    sizes: Mapping[str, Any],
    config: TrainConfig,
    device: torch.device,
    seed: int,
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
        Inner fold of each of them; not used where `config.patience` is 0: `config.max_epochs` epochs then.
    sizes, config
        What :func:`outcome_settings` returned.
    device, seed
        Where to train, and the seed of weights and order.
    """
    import pandas as pd
    import torch

    from stpredict.models._convnext import ConvNeXt, ConvNeXtConfig
    from stpredict.training import predict_arrays
    from stpredict.training._data import summarize

    mend_torchvision()
    from stpredict.training._loop import run_epochs

    every = np.arange(len(cohort.patient))
    data = map_arrays(
        cohort.maps, covariates, cohort.patient, n_classes=0 if cohort.label is None else 2, **cohort.outcome(every)
    )
    weights: tuple[float, ...] = ()
    if cohort.label is not None:
        share = np.bincount(cohort.label[train], minlength=2) / train.sum()
        weights = tuple((0.5 / share).tolist())
    network_config = ConvNeXtConfig(
        shape=cohort.maps.shape, mask=cohort.maps.mask, n_clinical=covariates.shape[1], class_weights=weights,
        lattice=cohort.maps.lattice, **sizes,
    )  # fmt: skip
    training = data.take(train)

    def run(part: ArraySet, validation: ArraySet | None, settings: TrainConfig) -> tuple[ConvNeXt, pd.DataFrame, int]:
        torch.manual_seed(seed)
        network = ConvNeXt(network_config, 1, cohort.maps.values.shape[2])
        network.prepare(summarize(part, network.needs))
        with tempfile.TemporaryDirectory(prefix="stpredict-") as scratch:
            history, n_epochs = run_epochs(
                network, part, validation, settings,
                device=device, seed=seed, directory=Path(scratch), resume=False, progress=False,
            )  # fmt: skip
        return network, history, n_epochs

    histories, chosen = [], []
    with torch.random.fork_rng(devices=[]):
        for number in np.unique(inner) if config.patience > 0 else ():
            _, history, n_epochs = run(training.take(inner != number), training.take(inner == number), config)
            histories.append(history.assign(inner=number))
            chosen.append(n_epochs)
        n_epochs = int(np.median(chosen)) if chosen else config.max_epochs
        network, history, _ = run(training, None, replace(config, max_epochs=n_epochs, patience=0))
    histories.append(history.assign(inner=-1))
    score, _ = predict_arrays(network, data, batch_size=64, device=device)
    return NetworkFit(
        network, score[:, 0].astype(np.float64), pd.concat(histories, ignore_index=True), chosen, n_epochs
    )
