"""Agreement of a predicted region with the annotated one."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._binary import auroc

SCORES = ("iou", "dice", "sensitivity", "specificity", "precision", "accuracy", "balanced_accuracy", "auc")


def segmentation(truth: Any, probability: Any, threshold: float = 0.5) -> dict[str, float]:
    """Score the probability of a region against its annotation, over the observations given.

    Give observations on tissue only: the empty part of a slide is easily distinguished from a tumor, and would raise
    accuracy, specificity and the area under the curve.

    Parameters
    ----------
    truth
        Annotation of each observation (n,): true, or 1, inside the region.
    probability
        Predicted probability of the region (n,), 0–1.
    threshold
        Probability above which an observation is predicted to be inside.

    Returns
    -------
    With TP, FP, TN, FN the counts of true and false positives and negatives:

    - `iou` = TP / (TP + FP + FN) and `dice` = 2 TP / (2 TP + FP + FN);
    - `sensitivity` = TP / (TP + FN), `specificity` = TN / (TN + FP), `precision` = TP / (TP + FP);
    - `accuracy`, and `balanced_accuracy`, the mean of sensitivity and specificity;
    - `auc`, the area under the receiver operating characteristic.

    A score whose denominator is zero is NaN, for example every score but specificity and accuracy where the region
    neither exists nor is predicted.

    Raises
    ------
    ValueError
        When the lengths differ, a value is NaN, the truth is not 0 or 1, or a probability is not between 0 and 1.

    Examples
    --------
    >>> from stpredict.metrics import segmentation
    >>> scores = segmentation([1, 1, 0, 0], [0.9, 0.4, 0.6, 0.1])
    >>> round(scores["iou"], 3), scores["auc"]
    (0.333, 0.75)
    """
    inside, chance = np.asarray(truth, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    if inside.ndim != 1 or inside.shape != chance.shape:
        raise ValueError(f"expected truth and probability of one shape (n,); found {inside.shape} and {chance.shape}")
    if not np.isin(inside, (0, 1)).all():
        raise ValueError(f"expected a truth of 0 and 1; found {inside[~np.isin(inside, (0, 1))][0]:g}")
    if not ((chance >= 0) & (chance <= 1)).all():
        raise ValueError(
            "expected probabilities between 0 and 1; found others; leave out NaN, take the sigmoid of logits"
        )
    return region_scores(inside == 1, chance > threshold, chance)


def region_scores(truth: np.ndarray, predicted: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Scores of a region that is predicted as a mask (n,), with the probability (n,) for the area under the curve."""
    tp, fp = int((truth & predicted).sum()), int((~truth & predicted).sum())
    fn, tn = int((truth & ~predicted).sum()), int((~truth & ~predicted).sum())

    def ratio(part: float, whole: float) -> float:
        return part / whole if whole else float("nan")

    sensitivity, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
    values = (
        ratio(tp, tp + fp + fn),
        ratio(2 * tp, 2 * tp + fp + fn),
        sensitivity,
        specificity,
        ratio(tp, tp + fp),
        ratio(tp + tn, len(truth)),
        (sensitivity + specificity) / 2,
        float(auroc(truth, probability)[0]),
    )
    return dict(zip(SCORES, values, strict=True))
