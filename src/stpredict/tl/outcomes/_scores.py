"""Scores of predicted outcomes over patients, with intervals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, written_marks

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.tl.outcomes._cohort import Cohort


def score_outcome(
    cohort: Cohort,
    scores: Mapping[str, np.ndarray],
    high: Mapping[str, np.ndarray],
    fold: np.ndarray,
    *,
    level: float,
    n_boot: int,
    seed: int,
) -> pd.DataFrame:
    """Score out-of-fold predictions, one row per model.

    Parameters
    ----------
    cohort
        Slides and outcomes.
    scores
        By model, log risks or probabilities (n,).
    high
        By model, whether a risk is above the median of the training side (n,).
    fold
        Outer fold (n,).
    level, n_boot, seed
        Level, resamples and random seed of the intervals.
    """
    import pandas as pd

    if not cohort.is_risk:
        rows = [
            {"model": name} | response_scores(cohort.patient, cohort.values, values, fold, level, n_boot, seed)
            for name, values in scores.items()
        ]
        return pd.DataFrame(rows).assign(leaky=joint_mark(cohort.leaky))
    from anndata import AnnData

    from stpredict.tl.judge._survival import survival

    tables = []
    for name, values in scores.items():
        obs = pd.DataFrame(
            {
                Key.PATIENT: cohort.patient, Key.TIME: cohort.values[:, 0], Key.EVENT: cohort.values[:, 1], Key.RISK: values,
                Key.group(Key.RISK): np.where(high[name], "high", "low"), Key.fold(Key.RISK): fold,
                Key.leaky(Key.RISK): written_marks(cohort.leaky),
            },
            index=[str(number) for number in range(len(values))],
        )  # fmt: skip
        with warnings.catch_warnings():
            if np.ptp(values) == 0:  # the majority says the same of everybody, and has one group
                warnings.filterwarnings("ignore", "expected two groups", UserWarning)
            table = survival(AnnData(obs=obs), level=level, n_boot=n_boot, seed=seed)
        table.insert(0, "model", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def response_scores(
    patient: np.ndarray,
    label: np.ndarray,
    probability: np.ndarray,
    fold: np.ndarray,
    level: float,
    n_boot: int,
    seed: int,
) -> dict[str, float]:
    """Scores over patients, whose slides are averaged."""
    import pandas as pd

    from stpredict.metrics._binary import auroc, average_precision, balanced_accuracy

    people = pd.DataFrame({"y": label, "p": probability, "fold": fold}).groupby(patient).mean()
    y, p = people["y"].to_numpy() == 1, people["p"].to_numpy()
    n = len(people)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    weights = np.concatenate([np.ones((1, n)), draws])
    record: dict[str, float] = {
        "n_patients": n, "n_slides": len(label), "n_positive": int(y.sum()), "prevalence": float(y.mean())
    }  # fmt: skip
    kinds = {"auroc": auroc, "auprc": average_precision, "balanced_accuracy": balanced_accuracy}
    for name, kind in kinds.items():
        values = kind(y, p, weights)
        low, high = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
        record |= {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    record["accuracy"] = float(((p > 0.5) == y).mean())
    record["auroc_folds"] = float(auroc(y, p, strata=people["fold"].to_numpy())[0])
    return record
