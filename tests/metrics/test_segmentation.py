"""Scores of regions against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from stpredict.metrics import segmentation
from stpredict.metrics._binary import auroc, average_precision, balanced_accuracy


def draw(seed: int = 0, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Truth and probabilities with ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    return truth, np.round(np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1), 2)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_equals_scikit_learn(threshold) -> None:
    truth, chance = draw()
    said = chance > threshold
    scores = segmentation(truth, chance, threshold)
    wanted = {
        "iou": sk.jaccard_score(truth, said),
        "dice": sk.f1_score(truth, said),
        "sensitivity": sk.recall_score(truth, said),
        "specificity": sk.recall_score(truth, said, pos_label=0),
        "precision": sk.precision_score(truth, said),
        "accuracy": sk.accuracy_score(truth, said),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, said),
        "auc": sk.roc_auc_score(truth, chance),
    }
    assert scores == pytest.approx(wanted)
    assert list(scores) == list(wanted)


def undefined(truth, chance) -> set[str]:
    return {name for name, value in segmentation(truth, chance).items() if np.isnan(value)}


def test_what_is_undefined_is_not_perfect() -> None:
    ratios = {"iou", "dice", "precision"}
    assert undefined([0, 0], [0.1, 0.2]) == ratios | {"sensitivity", "balanced_accuracy", "auc"}
    assert undefined([0, 0], [0.1, 0.9]) == {"sensitivity", "balanced_accuracy", "auc"}
    assert undefined([1, 1], [0.1, 0.9]) == {"specificity", "balanced_accuracy", "auc"}
    assert undefined([1, 0], [0.1, 0.2]) == {"precision"}
    assert len(undefined([], [])) == 8


def test_errors() -> None:
    with pytest.raises(ValueError, match="one shape"):
        segmentation([0, 1], [0.5])
    with pytest.raises(ValueError, match="truth of 0 and 1; found 2"):
        segmentation([0, 2], [0.5, 0.5])
    for bad in (1.5, np.nan):
        with pytest.raises(ValueError, match="between 0 and 1"):
            segmentation([0, 1], [0.5, bad])


def test_weighted_curves_equal_scikit_learn() -> None:
    truth, score = draw(1)
    weights = np.random.default_rng(2).multinomial(len(truth), np.full(len(truth), 1 / len(truth)), size=4)
    pairs = [
        (auroc(truth, score, weights), sk.roc_auc_score),
        (average_precision(truth, score, weights), sk.average_precision_score),
    ]
    for found, reference in pairs:
        np.testing.assert_allclose(found, [reference(truth, score, sample_weight=w) for w in weights])
    wanted = [sk.balanced_accuracy_score(truth, score > 0.5, sample_weight=w) for w in weights]
    np.testing.assert_allclose(balanced_accuracy(truth, score, weights), wanted)


def test_area_within_strata_ignores_their_levels() -> None:
    truth, score = draw(3)
    strata = np.arange(len(truth)) % 3
    moved = score + 10 * strata
    within = auroc(truth, moved, strata=strata)
    np.testing.assert_allclose(within, auroc(truth, score, strata=strata))
    assert abs(auroc(truth, moved)[0] - within[0]) > 0.02


def test_curves_of_one_class_are_undefined() -> None:
    assert np.isnan(auroc([1, 1], [0.1, 0.2])).all()
    assert np.isnan(average_precision([0, 0], [0.1, 0.2])).all()
    assert average_precision([1, 0, 0, 0], np.zeros(4))[0] == 0.25
