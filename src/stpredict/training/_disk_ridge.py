"""Ridge regression of spots on the mean features of their places, which holds for the places as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stpredict.training._disks import Disks, Shrunk, disk_folds, shrunk_by

_FLAT = 1e4  # penalty of a gene that is predicted by its mean, but for its order
_SMALLEST = 1e-10  # variance of a component, beside that of the largest, below which it is rounding


@dataclass(frozen=True)
class RidgeConfig:
    """Hyperparameters of the head `"ridge"`.

    Attributes
    ----------
    alphas
        Penalties to choose from for each gene, in units of the number of spots. A gene that none of them explains better
        than its mean is predicted by little else: a map keeps its order, so that its correlation is defined and counted.
    shrink
        Whether predictions are pulled towards the mean, by as much as spots that were held out say.
    """

    alphas: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    shrink: bool = True


class DiskRidge:
    """A linear map from standardized features to genes.

    What is linear in a place is linear in the mean over places: the mean of the predictions over a disk is the prediction of
    its mean features.

    Parameters
    ----------
    fit
        Weights (d, g) and intercept (g,).
    members
        Those of fits to resampled spots, for the spread.
    """

    def __init__(
        self,
        fit: tuple[np.ndarray, np.ndarray],
        members: Sequence[tuple[np.ndarray, np.ndarray]],
        facts: dict[str, Any],
    ) -> None:
        self.fit, self.members, self.facts = fit, members, facts

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Expression (m, g) of standardized features (m, d), and the standard deviation over the members."""
        mean = features @ self.fit[0] + self.fit[1]
        if len(self.members) < 2:
            return mean, None
        # In single precision: of a spread, three digits are more than anybody knows.
        single = np.asarray(features, dtype=np.float32)
        total, squares = np.zeros(mean.shape, dtype=np.float32), np.zeros(mean.shape, dtype=np.float32)
        for weight, intercept in self.members:
            apart = single @ (weight - self.fit[0]).astype(np.float32)
            apart += (intercept - self.fit[1]).astype(np.float32)
            total += apart
            squares += np.square(apart, out=apart)
        n = len(self.members)
        return mean, np.sqrt(np.maximum(squares - total**2 / n, 0) / (n - 1))


def fit_disk_ridge(
    disks: Disks, target: np.ndarray, config: RidgeConfig, *, reach_um: float, n_members: int, seed: int
) -> DiskRidge:
    """Solve in closed form, with a penalty of each gene's own.

    Parameters
    ----------
    disks
        Spots with standardized mean features.
    target
        (n, g) float64.
    config
        Hyperparameters.
    reach_um
        Side of the square that a spot was read from, for the buffer between the inner folds.
    n_members
        Fits to resampled spots.
    seed
        Of the resampling.
    """
    alphas = np.array(sorted(map(float, config.alphas)))
    folds = disk_folds(disks, reach_um)
    chosen = np.full(target.shape[1], alphas[len(alphas) // 2])
    shrunk, n_flat = Shrunk.none(target.shape[1]), 0
    if folds:
        parts = [_Spectrum(disks.mean[train], target[train]) for train, _ in folds]
        gain = np.zeros((len(alphas), target.shape[1]))  # of squared error, beside that of the mean
        for part, (_, held_out) in zip(parts, folds, strict=True):
            truth = _centered(target[held_out])
            cast = _centered(disks.mean[held_out] @ part.vectors)
            for number, alpha in enumerate(alphas):
                gain[number] += (truth**2 - (truth - cast @ part.scores(alpha)) ** 2).sum(axis=0)
        best, flat = gain.argmax(axis=0), gain.max(axis=0) <= 0
        chosen, n_flat = np.where(flat, _FLAT, alphas[best]), int(flat.sum())
        if config.shrink:
            held = [
                (part.line(chosen, disks.mean[test]), target[test], np.full(int(test.sum()), number))
                for number, (part, (_, test)) in enumerate(zip(parts, folds, strict=True))
            ]
            shrunk = shrunk_by(target.mean(axis=0), held)
    rng = np.random.default_rng(seed)
    members = []
    for _ in range(n_members if n_members > 1 else 0):
        rows = rng.integers(0, len(target), len(target))
        members.append(shrunk.of_line(*_Spectrum(disks.mean[rows], target[rows]).weights(chosen)))
    facts = {"alpha": float(np.median(chosen)), "n_flat": n_flat}
    fit = shrunk.of_line(*_Spectrum(disks.mean, target).weights(chosen))
    return DiskRidge(fit, members, facts | shrunk.facts())


class _Spectrum:
    """Features (n, d) and target (n, g) in the principal components of the features."""

    def __init__(self, features: np.ndarray, target: np.ndarray) -> None:
        self.mean, self.target_mean = features.mean(axis=0), target.mean(axis=0)
        centered, outcome = features - self.mean, target - self.target_mean
        n, d = centered.shape
        if d <= n:
            values, vectors = np.linalg.eigh(centered.T @ centered / n)
        else:  # the same components from the smaller product
            values, left = np.linalg.eigh(centered @ centered.T / n)
        kept = values > _SMALLEST * max(float(values[-1]), 0.0)
        self.values = values[kept]
        self.vectors = vectors[:, kept] if d <= n else centered.T @ left[:, kept] / np.sqrt(n * self.values)
        self.cross = self.vectors.T @ (centered.T @ outcome) / n

    def scores(self, alpha: np.ndarray | float) -> np.ndarray:
        """Weights (k, g) of the components under a penalty, or one of each gene."""
        shrunk: np.ndarray = self.cross / (self.values[:, None] + np.asarray(alpha))
        return shrunk

    def weights(self, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (d, g) and intercept (g,)."""
        weight = self.vectors @ self.scores(alpha)
        return weight, self.target_mean - self.mean @ weight

    def line(self, alpha: np.ndarray, features: np.ndarray) -> np.ndarray:
        weight, intercept = self.weights(alpha)
        return np.asarray(features @ weight + intercept)


def _centered(values: np.ndarray) -> np.ndarray:
    """Values less their mean: what a map shows, and not its level."""
    return values - values.mean(axis=0)
