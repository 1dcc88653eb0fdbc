"""Correlations and errors of predictions over patients, beside those of comparators. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stpredict.core._engine import run_calls
from stpredict.metrics._pairs import center, check_matrix, dense, gene_blocks
from stpredict.metrics._pearson import correlation

_MIN_FOLD = 4  # patients of a fold: Fisher's z has the variance 1 / (n - 3)
ERROR_ONLY = "mean"  # a comparator that is constant within a fold: its correlation has no meaning


@dataclass
class Compared:
    """Scores per gene (n_genes,) of one comparator."""

    pearson: np.ndarray
    between: np.ndarray
    rmse: np.ndarray


@dataclass
class Scores:
    """Scores per gene (n_genes,) of a prediction, and of its comparators by name."""

    pearson: np.ndarray
    pearson_folds: np.ndarray
    rmse: np.ndarray
    iqr: np.ndarray
    comparators: dict[str, Compared] = field(default_factory=dict)


def compare(
    truth: Any,
    predicted: np.ndarray,
    comparators: dict[str, np.ndarray],
    patient: np.ndarray,
    fold: np.ndarray | None = None,
    client: Any = None,
) -> Scores:
    """Correlations and errors over patients, in one pass over blocks of genes.

    Parameters
    ----------
    truth
        Measured expression (n_slides, n_genes), dense or sparse.
    predicted
        Prediction of the same shape.
    comparators
        Other predictions of the same shape, by name.
    patient
        (n_slides,) number of the patient, from 0 on, without gaps; slides of a patient are averaged.
    fold
        (n_patients,) fold of each patient, -1 for none.
    client
        Workers that take a block each at a time; see :func:`stpredict.core._engine.run_calls`.
    """
    truth, predicted = check_matrix(truth, "truth"), check_matrix(predicted, "predicted")
    blocks = list(gene_blocks((int(patient.max()) + 1, truth.shape[1]), copies=2))
    calls = (
        (
            _compare_block,
            {
                "truth": truth[:, genes],
                "predicted": predicted[:, genes],
                "comparators": {name: other[:, genes] for name, other in comparators.items()},
                "patient": patient,
                "fold": fold,
            },
        )
        for genes in blocks
    )
    scores = _undefined(truth.shape[1], comparators)
    for genes, found in zip(blocks, run_calls(client, calls), strict=True):
        for name in ("pearson", "pearson_folds", "rmse", "iqr"):
            getattr(scores, name)[genes] = getattr(found, name)
        for other, own in scores.comparators.items():
            for name in ("pearson", "between", "rmse"):
                getattr(own, name)[genes] = getattr(found.comparators[other], name)
    return scores


def _undefined(n_genes: int, comparators: Iterable[str]) -> Scores:
    def empty() -> np.ndarray:
        return np.full(n_genes, np.nan)

    return Scores(empty(), empty(), empty(), empty(), {n: Compared(empty(), empty(), empty()) for n in comparators})


def _compare_block(
    truth: Any,
    predicted: np.ndarray,
    comparators: dict[str, np.ndarray],
    patient: np.ndarray,
    fold: np.ndarray | None,
) -> Scores:
    """Scores of a block of genes, as :func:`compare` gives them of all."""
    average, every = _averaging(patient), slice(None)
    scores = _undefined(truth.shape[1], comparators)
    x = average(dense(truth, every))
    y = average(dense(predicted, every))
    scores.iqr = _interquartile_range(x)
    scores.rmse = _error(x, y)
    if fold is not None:
        scores.pearson_folds = _within_folds(x, y, fold, truth.dtype, predicted.dtype)
    others = {name: average(dense(other, every)) for name, other in comparators.items()}
    for name, z in others.items():
        scores.comparators[name].rmse = _error(x, z)
    x, xx = center(x, truth.dtype)
    y, yy = center(y, predicted.dtype)
    scores.pearson = correlation(x, xx, y, yy)
    for name, z in others.items():
        if name == ERROR_ONLY:
            continue
        z, zz = center(z, comparators[name].dtype)
        scores.comparators[name].pearson = correlation(x, xx, z, zz)
        scores.comparators[name].between = correlation(y, yy, z, zz)
    return scores


def _averaging(patient: np.ndarray) -> Any:
    """Function from slides (n_slides, g) to their means per patient (n_patients, g)."""
    slides = np.bincount(patient)
    if len(slides) == len(patient):
        order = np.argsort(patient)
        return (lambda block: block) if (order == np.arange(len(order))).all() else (lambda block: block[order])
    from scipy import sparse

    weights = sparse.csr_array(
        (1 / slides[patient], (patient, np.arange(len(patient)))), shape=(len(slides), len(patient))
    )
    return lambda block: weights @ block


def _interquartile_range(x: np.ndarray) -> np.ndarray:
    """Distance of the quartiles (linear, as `numpy.percentile` has them); sorting is several times as fast."""
    ordered = x.T.copy(order="C")
    ordered.sort(axis=1)  # NaN last
    at = np.array([0.25, 0.75]) * (len(x) - 1)
    low = at.astype(int)
    quartiles = ordered[:, low] * (1 - (at - low)) + ordered[:, np.minimum(low + 1, len(x) - 1)] * (at - low)
    return np.where(np.isnan(ordered[:, -1]), np.nan, quartiles[:, 1] - quartiles[:, 0])


def _error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    difference = x - y
    return np.sqrt(np.einsum("ij,ij->j", difference, difference) / len(x))


def _within_folds(x: np.ndarray, y: np.ndarray, fold: np.ndarray, x_dtype: np.dtype, y_dtype: np.dtype) -> np.ndarray:
    """Correlation within each fold, averaged as Fisher's z with weights n - 3."""
    total, weight = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for number in range(fold.max() + 1):
        rows = np.flatnonzero(fold == number)
        if len(rows) < _MIN_FOLD:
            continue
        r = correlation(*center(x[rows], x_dtype), *center(y[rows], y_dtype))
        defined = ~np.isnan(r)
        with np.errstate(divide="ignore"):
            total[defined] += (len(rows) - 3) * np.arctanh(r[defined])
        weight[defined] += len(rows) - 3
    with np.errstate(invalid="ignore"):
        return np.tanh(total / np.where(weight > 0, weight, np.nan))
