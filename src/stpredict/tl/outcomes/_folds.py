"""Nested cross-validation of an outcome, and the models that are then fitted to all patients."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.tl.learn._engine import Job, run_jobs
from stpredict.tl.outcomes._baselines import MAJORITY, baseline_inputs, fit_baselines, majority
from stpredict.tl.outcomes._clinical import ClinicalEncoder
from stpredict.tl.outcomes._cohort import stratified_folds
from stpredict.tl.outcomes._network import NetworkFit, fit_network

if TYPE_CHECKING:
    import torch

    from stpredict.tl.outcomes._cohort import Cohort
    from stpredict.training import FittedModel, TrainConfig


@dataclass
class OutOfFold:
    """Predictions of patients who were left out.

    Attributes
    ----------
    scores
        By model, log risk relative to the mean of the training side, or probability (n,).
    high
        By model, whether the score is above the median of the training side (n,).
    history
        History of the networks, one row per epoch.
    epochs
        Best number of epochs of every inner fold of every fold.
    """

    scores: dict[str, np.ndarray] = field(default_factory=dict)
    high: dict[str, np.ndarray] = field(default_factory=dict)
    history: Any = None
    epochs: list[int] = field(default_factory=list)


def cross_validate_outcome(
    cohort: Cohort, fold: np.ndarray, *, device: torch.device, n_jobs: int, progress: bool, **options: Any
) -> OutOfFold:
    """Fit the network and the baselines without each fold in turn, and predict it.

    Parameters
    ----------
    cohort
        Slides and outcomes.
    fold
        Outer fold (n,).
    device, n_jobs, progress
        Device to train on, processes that work side by side, and whether to show a progress bar.
    **options
        Inner folds, hyperparameters, settings, baselines and seed, as :func:`fit_fold` takes them.
    """
    import pandas as pd

    numbers = np.unique(fold)

    def jobs() -> Iterator[Job]:
        for number in numbers:
            yield fit_fold, {"cohort": cohort, "train": fold != number, **options}

    results = run_jobs(jobs(), len(numbers), device=device, n_jobs=n_jobs, progress=progress, what="outcome")
    out = OutOfFold()
    histories = []
    for number, (fit, found) in zip(numbers, results, strict=True):
        train, test = fold != number, fold == number
        histories.append(fit.history.assign(fold=number))
        out.epochs += fit.chosen
        for name, score in found.items():
            out.scores.setdefault(name, np.full(len(fold), np.nan))
            out.high.setdefault(name, np.zeros(len(fold), dtype=bool))
            if cohort.is_risk:
                score = score - score[train].mean()
            out.scores[name][test] = score[test] if cohort.is_risk else probability(score[test])
            out.high[name][test] = score[test] > np.median(score[train])
    out.history = pd.concat(histories, ignore_index=True)
    return out


def fit_fold(
    cohort: Cohort,
    train: np.ndarray,
    *,
    network: str,
    n_inner: int,
    sizes: Mapping[str, Any],
    config: TrainConfig,
    baselines: Collection[str],
    seed: int,
    device: torch.device,
) -> tuple[NetworkFit, dict[str, np.ndarray]]:
    """Fit the network and the baselines to one training side; their log risks or logits (n,) of all slides."""
    covariates = ClinicalEncoder(cohort.clinical[train])(cohort.clinical)
    inner = stratified_folds(cohort.patient[train], cohort.stratum[train], n_inner, seed)
    fit = fit_network(
        cohort, covariates, train, inner, name=network, sizes=sizes, config=config, device=device, seed=seed
    )
    found = {network: fit.score}
    if MAJORITY in baselines:
        found[MAJORITY] = majority(cohort, train)
    inputs = baseline_inputs(cohort.maps, covariates)
    linear = fit_baselines(cohort, covariates, train, inner, baselines)
    return fit, found | {name: model(inputs[name]) for name, model in linear.items()}


def probability(logit: np.ndarray) -> np.ndarray:
    """Probability of the second class."""
    return 1 / (1 + np.exp(-logit))


def fit_outcome_model(
    cohort: Cohort,
    *,
    epochs: Collection[int],
    allow_leakage: bool,
    network: str,
    n_inner: int,
    sizes: Mapping[str, Any],
    config: TrainConfig,
    baselines: Collection[str],
    device: torch.device,
    seed: int,
) -> FittedModel:
    """Fit the network and the baselines to all patients, for other cohorts.

    The network gets the median of the best numbers of epochs of all inner folds (`epochs`), each of which held out
    patients of the training side of a fold; no test side had a part in them.
    """
    from stpredict.training import FittedModel, TrainingFacts

    everybody = np.ones(len(cohort.patient), dtype=bool)
    encoder = ClinicalEncoder(cohort.clinical)
    covariates = encoder(cohort.clinical)
    inner = stratified_folds(cohort.patient, cohort.stratum, n_inner, seed)
    n_epochs = int(np.median(list(epochs))) if epochs else config.max_epochs
    fit = fit_network(
        cohort, covariates, everybody, inner,
        name=network, sizes=sizes, config=config, device=device, seed=seed, n_epochs=n_epochs,
    )  # fmt: skip
    scores, linear = {"model": fit.score}, {}
    inputs = baseline_inputs(cohort.maps, covariates)
    for name, model in fit_baselines(cohort, covariates, everybody, inner, baselines).items():
        linear[name] = [*model.coefficients.tolist(), float(model.intercept)]
        scores[name] = model(inputs[name])
    return FittedModel(
        model=network,
        network=fit.network,
        target=cohort.target,
        features={"slots": {}, "scaling": "global"},
        training=TrainingFacts(
            sorted(set(cohort.patient.tolist())),
            sorted(cohort.slide),
            len(cohort.patient),
            seed,
            allow_leakage=allow_leakage,
            settings=config.to_dict(),
            validated_on="patient",
            n_epochs=n_epochs,
            mean={name: float(score.mean()) for name, score in scores.items()},
            median={name: float(np.median(score)) for name, score in scores.items()},
            extra={
                "maps": cohort.maps.kind.to_dict() | {"shape": list(cohort.maps.shape)},
                "clinical": encoder.to_dict(),
                "linear": linear,
                "leaky_covariates": cohort.leaky_covariates,
            },
        ),
        history=fit.history.assign(fold=-1),
    )
