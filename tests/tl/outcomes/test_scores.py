"""Scores of a response over patients, and the penalty of linear baselines."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from stpredict.tl.outcomes._linear import LinearOutcome, fit_linear_outcome
from stpredict.tl.outcomes._scores import response_scores


def test_slides_of_a_patient_are_averaged() -> None:
    rng = np.random.default_rng(0)
    n = 60
    patient = np.repeat([f"p{i:02d}" for i in range(n)], 2)
    label = np.repeat(rng.random(n) < 0.4, 2).astype(int)
    probability = np.clip(0.25 + 0.3 * label + rng.normal(0, 0.3, 2 * n), 0, 1)
    fold = np.repeat(np.arange(n) % 3, 2)
    found = response_scores(patient, label, probability, fold, 0.95, 500, 0)
    y, p = label[::2], probability.reshape(n, 2).mean(axis=1)
    assert (found["n_patients"], found["n_slides"], found["n_positive"]) == (n, 2 * n, y.sum())
    assert found["auroc"] == pytest.approx(roc_auc_score(y, p))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, p > 0.5))
    assert found["accuracy"] == pytest.approx(((p > 0.5) == y).mean())
    pairs = [(fold[::2] == f) for f in range(3)]
    weights = [y[part].sum() * (~y[part].astype(bool)).sum() for part in pairs]
    within = np.average([roc_auc_score(y[part], p[part]) for part in pairs], weights=weights)
    assert found["auroc_folds"] == pytest.approx(within)
    # The interval is that of a resampling of patients by hand, and narrower at a lower level.
    draws = np.random.default_rng(1).integers(0, n, (2000, n))
    drawn = [roc_auc_score(y[rows], p[rows]) for rows in draws if len(set(y[rows])) == 2]
    np.testing.assert_allclose(
        [found["auroc_low"], found["auroc_high"]], np.quantile(drawn, [0.025, 0.975]), atol=0.025
    )
    narrow = response_scores(patient, label, probability, fold, 0.5, 500, 0)
    assert narrow["auroc_high"] - narrow["auroc_low"] < 0.5 * (found["auroc_high"] - found["auroc_low"])


def test_inner_folds_choose_the_penalty() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 40))
    folds = np.arange(90) % 3
    noise, signal = rng.integers(0, 2, 90), (x[:, 0] > 0).astype(int)
    penalties = (1e-2, 1e2)
    for label, penalty in ((noise, 1e2), (signal, 1e-2)):
        found = fit_linear_outcome(x, folds, label=label, penalties=penalties)
        np.testing.assert_allclose(found(x), LinearOutcome(x, label=label, penalty=penalty)(x), atol=1e-4)


def test_coefficients_and_intercept_are_the_model() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(30, 6))
    x[:, 4] = 7  # a constant column counts for nothing
    model = LinearOutcome(x, label=np.arange(30) % 2, penalty=0.1)
    np.testing.assert_allclose(x @ model.coefficients + model.intercept, model(x))
    assert model.coefficients[4] == 0
