"""The path of LASSO-Cox models and its cross-validation, on arrays."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from stpredict.core._optional import optional_import

_RATIOS = (0.01, 0.05, 0.2)  # of the smallest to the largest penalty; the next where weights get too large
_CLOSE = 1e-12


@dataclass(frozen=True)
class Path:
    """Models for a series of penalties.

    Attributes
    ----------
    penalty
        (n_penalties,) descending.
    weight
        (n_genes, n_penalties).
    """

    penalty: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class CrossValidated:
    """Deviance over folds.

    Attributes
    ----------
    deviance, error
        (n_penalties,) mean over folds per event, and its standard error.
    at_min, at_1se
        Index of the least deviance, and of the largest penalty within one standard error of it.
    """

    deviance: np.ndarray
    error: np.ndarray
    at_min: int
    at_1se: int


def fit_path(
    x: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    *,
    penalty: np.ndarray | None = None,
    n_penalties: int = 100,
    l1_ratio: float = 1.0,
) -> Path:
    """Fit the path of standardized genes (n, d) by scikit-survival's Coxnet.

    Maximizes the log partial likelihood (ties by Breslow) over n, less the penalty times the sum of absolute weights: the
    scale of glmnet. The largest penalty is the smallest one that leaves no gene.
    """
    coxnet = optional_import("sksurv.linear_model", "survival").CoxnetSurvivalAnalysis
    outcome = optional_import("sksurv.util", "survival").Surv.from_arrays(event.astype(bool), time.astype(np.float64))
    asked = penalty
    if asked is not None:
        # Coxnet ends a path whose deviance no longer changes, and so one that begins with models without any gene.
        penalty = asked[asked < largest_penalty(x, time, event) / l1_ratio]
        if not len(penalty):
            return Path(asked, np.zeros((x.shape[1], len(asked))))
    for ratio in _RATIOS:
        options: dict[str, Any] = (
            {"n_alphas": n_penalties, "alpha_min_ratio": ratio} if penalty is None else {"alphas": penalty}
        )
        with warnings.catch_warnings():
            # That no gene is left at some penalty, or that the last ones are not reached, is told by the path itself.
            warnings.simplefilter("ignore")
            try:
                model = coxnet(l1_ratio=l1_ratio, **options).fit(x, outcome)
            except ArithmeticError:  # weights grow without bound
                penalty = None if penalty is None else penalty[: -(-4 * len(penalty) // 5)]
                continue
        found, weight = np.asarray(model.alphas_, dtype=np.float64), np.asarray(model.coef_, dtype=np.float64)
        if asked is None:
            return Path(found, weight)
        # Before its beginning a path has no gene, and after its end no longer changes.
        at = np.searchsorted(-found, -asked, side="right") - 1
        return Path(asked, np.where(at >= 0, weight[:, np.maximum(at, 0)], 0.0))
    raise RuntimeError(
        "expected a path of penalized Cox models; found weights that grow without bound: a gene orders all events; look for one "
        "that was derived from the outcome"
    )


def largest_penalty(x: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    """The smallest penalty that leaves no gene: the largest slope, over n, of the log partial likelihood at 0."""
    order = np.argsort(time, kind="stable")
    moments, first, count = np.unique(time[order], return_index=True, return_counts=True)
    events = np.add.reduceat(event[order].astype(np.float64), first)
    hazard = np.cumsum(events / (len(time) - np.cumsum(count) + count))
    residual = event - hazard[np.searchsorted(moments, time)]
    return float(np.abs(residual @ x).max() / len(time))


def partial_likelihood(score: np.ndarray, time: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Log partial likelihood (k,) of scores (n, k), ties by Breslow: all with an equal time are at risk."""
    order = np.argsort(-time, kind="stable")
    score, time, event = score[order], time[order], event[order].astype(bool)
    at_risk = np.logaddexp.accumulate(score, axis=0)
    last = np.searchsorted(-time, -time, side="right") - 1
    return np.asarray((score[event] - at_risk[last[event]]).sum(axis=0))


def cross_validate_path(
    x: np.ndarray, time: np.ndarray, event: np.ndarray, path: Path, fold: np.ndarray, l1_ratio: float = 1.0
) -> CrossValidated:
    """Deviance of the penalties of a path over folds of patients (n,), as glmnet computes it for Cox models.

    The contribution of a fold is the partial likelihood of all patients less that of those trained on, under the weights of
    the latter: few patients alone have few pairs to compare.
    """
    n_folds = int(fold.max()) + 1
    deviance = np.empty((n_folds, len(path.penalty)))
    weight = np.zeros(n_folds)
    for number in range(n_folds):
        train = fold != number
        mean, std = x[train].mean(axis=0), x[train].std(axis=0)
        inside = (x - mean) / np.where(std > _CLOSE, std, np.inf)
        part = fit_path(inside[train], time[train], event[train], penalty=path.penalty, l1_ratio=l1_ratio)
        score = inside @ part.weight
        gained = partial_likelihood(score, time, event) - partial_likelihood(score[train], time[train], event[train])
        weight[number] = event[~train].sum()
        deviance[number] = -2 * gained / weight[number]
    total = weight @ deviance / weight.sum()
    error = np.sqrt(weight @ (deviance - total) ** 2 / weight.sum() / (n_folds - 1))
    at_min = int(np.argmin(total))
    at_1se = int(np.flatnonzero(total <= total[at_min] + error[at_min])[0])
    return CrossValidated(total, error, at_min, at_1se)


def event_folds(event: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Fold (n,) of each patient, with as many events in each."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(event), dtype=np.int64)
    order = np.concatenate([rng.permutation(np.flatnonzero(event == kind)) for kind in (1, 0)])
    fold[order] = np.arange(len(event)) % n_folds
    return fold
