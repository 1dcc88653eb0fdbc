"""Nested cross-validation of an outcome, and the models fitted on everybody in its wake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.tl.outcomes._baselines import MAJORITY, baseline_inputs, fit_baselines, majority
from stpredict.tl.outcomes._clinical import ClinicalEncoder
from stpredict.tl.outcomes._cohort import stratified_folds
from stpredict.tl.outcomes._network import NETWORK, fit_network

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from stpredict.tl.outcomes._cohort import Cohort
    from stpredict.tl.outcomes._result import OutcomeModel
    from stpredict.training import TrainConfig


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
        Of the networks, one row per epoch.
    epochs
        Best number of epochs of every inner fold of every fold.
    """

    scores: dict[str, np.ndarray] = field(default_factory=dict)
    high: dict[str, np.ndarray] = field(default_factory=dict)
    history: Any = None
    epochs: list[int] = field(default_factory=list)


def cross_validate_outcome(
    cohort: Cohort,
    fold: np.ndarray,
    *,
    n_inner: int,
    sizes: Mapping[str, Any],
    config: TrainConfig,
    baselines: bool,
    device: torch.device,
    seed: int,
    progress: bool,
) -> OutOfFold:
    """Fit the network and the baselines without each fold in turn, and predict it.

    Parameters
    ----------
    cohort
        Slides and outcomes.
    fold
        Outer fold (n,).
    n_inner
        Inner folds.
    sizes, config
        Hyperparameters and training settings of the network.
    baselines
        Add the baselines.
    device, seed, progress
        As in :func:`stpredict.tl.fit_outcome`.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    n = len(fold)
    out = OutOfFold()
    histories = []
    for number in tqdm(np.unique(fold), desc="outcome", unit="fold", disable=not progress):
        train, test = fold != number, fold == number
        covariates = ClinicalEncoder(cohort.clinical[train])(cohort.clinical)
        inner = stratified_folds(cohort.patient[train], cohort.stratum[train], n_inner, seed)
        fit = fit_network(cohort, covariates, train, inner, sizes=sizes, config=config, device=device, seed=seed)
        histories.append(fit.history.assign(fold=number))
        out.epochs += fit.chosen
        found = {NETWORK: fit.score}
        if baselines:
            inputs = baseline_inputs(cohort.maps, covariates)
            found[MAJORITY] = majority(cohort, train)
            linear = fit_baselines(cohort, covariates, train, inner)
            found |= {name: model(inputs[name]) for name, model in linear.items()}
        for name, score in found.items():
            out.scores.setdefault(name, np.full(n, np.nan))
            out.high.setdefault(name, np.zeros(n, dtype=bool))
            if cohort.label is None:
                score = score - score[train].mean()
            out.scores[name][test] = score[test] if cohort.label is None else probability(score[test])
            out.high[name][test] = score[test] > np.median(score[train])
    out.history = pd.concat(histories, ignore_index=True)
    return out


def probability(logit: np.ndarray) -> np.ndarray:
    """Probability of the second class."""
    return 1 / (1 + np.exp(-logit))


def fit_outcome_model(
    cohort: Cohort,
    keys: Sequence[str],
    *,
    epochs: Sequence[int],
    allow_leakage: bool,
    n_inner: int,
    sizes: Mapping[str, Any],
    config: TrainConfig,
    baselines: bool,
    device: torch.device,
    seed: int,
) -> tuple[OutcomeModel, pd.DataFrame]:
    """Fit the network and the baselines to all patients, for other cohorts.

    The network gets the median of the best numbers of epochs of all inner folds (`epochs`), each of which held out
    patients of the training side of a fold; no test side had a part in them.

    Returns
    -------
    The model and the history, whose fold is -1.
    """
    from stpredict.tl.outcomes._result import OutcomeModel

    everybody = np.ones(len(cohort.patient), dtype=bool)
    encoder = ClinicalEncoder(cohort.clinical)
    covariates = encoder(cohort.clinical)
    inner = stratified_folds(cohort.patient, cohort.stratum, n_inner, seed)
    n_epochs = int(np.median(epochs)) if epochs else config.max_epochs
    fit = fit_network(
        cohort, covariates, everybody, inner,
        sizes=sizes, config=replace(config, max_epochs=n_epochs, patience=0), device=device, seed=seed,
    )  # fmt: skip
    scores, linear = {NETWORK: fit.score}, {}
    if baselines:
        inputs = baseline_inputs(cohort.maps, covariates)
        for name, model in fit_baselines(cohort, covariates, everybody, inner).items():
            linear[name] = np.append(model.coefficients, model.intercept)
            scores[name] = model(inputs[name])
    found = OutcomeModel(
        network=fit.network,
        outcome="survival" if cohort.label is None else "response",
        keys=list(keys),
        classes=list(cohort.classes),
        maps=cohort.maps.kind.to_dict() | {"shape": list(cohort.maps.shape)},
        clinical=encoder.to_dict(),
        training={
            "patients": sorted(set(cohort.patient.tolist())),
            "samples": sorted(cohort.slide),
            "n_epochs": n_epochs,
            "settings": config.to_dict(),
            "seed": seed,
            "allow_leakage": allow_leakage,
            "leaky_covariates": cohort.leaky_covariates,
            "mean": {name: float(score.mean()) for name, score in scores.items()},
            "median": {name: float(np.median(score)) for name, score in scores.items()},
        },
        baselines=linear,
    )
    return found, fit.history.assign(fold=-1)
