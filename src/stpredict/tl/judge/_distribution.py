"""Scores of distributions: what samples are worth, beside predictions that have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict import metrics as m

if TYPE_CHECKING:
    from stpredict.tl.judge._lines import Line

DISTRIBUTION = ("crps", "coverage_90", "rvd_samples", "rvd_means", "energy_score", "correlation_distance")
_CENTRAL = (0.05, 0.95)


def scored_metrics(metrics: Sequence[str], models: Mapping[str, Line]) -> list[str]:
    """The metrics asked for, without those of distributions where no line has samples."""
    drawn = any(line.samples is not None for line in models.values())
    found = [name for name in metrics if drawn or name not in DISTRIBUTION]
    if metrics and not found:
        raise ValueError(
            f"expected samples for the metrics {', '.join(metrics)}; found predictions without any; call stp.tl.predict with "
            "n_samples=, with a model that draws samples"
        )
    return found


def distribution_scores(
    truth: np.ndarray, predicted: np.ndarray, samples: np.ndarray | None, names: Iterable[str]
) -> dict[str, np.ndarray]:
    """Scores (n_genes,) by name of predictions (n, n_genes) with samples (n, n_samples, n_genes) or without."""
    names, n_genes = set(names), truth.shape[1]
    drawn = predicted[:, None] if samples is None else samples
    undefined = np.full(n_genes, np.nan)
    found = {}
    if "crps" in names:
        found["crps"] = m.crps(truth, drawn)
    if "coverage_90" in names:
        found["coverage_90"] = undefined
        if samples is not None:
            low, high = m.sample_quantiles(samples, _CENTRAL).transpose(1, 0, 2)
            found["coverage_90"] = m.interval_coverage(truth, low, high)
    if "rvd_samples" in names:
        found["rvd_samples"] = undefined if samples is None else m.relative_variance_distance(truth, samples)
    if "rvd_means" in names:
        found["rvd_means"] = m.relative_variance_distance(truth, predicted)
    if "energy_score" in names:
        # Genes that were not measured everywhere would leave nothing of the observations.
        known = np.isfinite(truth).all(axis=0) & np.isfinite(drawn).all(axis=(0, 1))
        whole = m.energy_score(truth[:, known], drawn[:, :, known]).mean() if known.any() else np.nan
        found["energy_score"] = np.where(known, whole, np.nan)
    if "correlation_distance" in names:
        found["correlation_distance"] = m.correlation_distance(truth, drawn)
    return found
