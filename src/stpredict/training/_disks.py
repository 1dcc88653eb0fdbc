"""What is learned from spots that are means over many places: the data of a fit, and what all heads share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from stpredict.core._apart import stripe_folds
from stpredict.core._constant import constant
from stpredict.models.nn._shrinkage import Shrinkage


@dataclass(frozen=True)
class Disks:
    """Spots with the features of the places under them.

    Attributes
    ----------
    mean, square
        (n, d) float64 means of features, and of their squares, over the places of each spot.
    section
        (n,) int64 code of the section.
    positions_um
        (n, 2) centers of the spots.
    places
        (m, d) float32 features of the places under any spot, where the head reads them one by one.
    weights
        Sparse (n, m) mean over the places of each spot.
    """

    mean: np.ndarray
    square: np.ndarray
    section: np.ndarray
    positions_um: np.ndarray
    places: np.ndarray | None = None
    weights: Any = None

    def __len__(self) -> int:
        return len(self.mean)

    def take(self, rows: np.ndarray) -> Disks:
        """Some of the spots, by mask or integer index; places stay."""
        parts = {name: getattr(self, name)[rows] for name in ("mean", "square", "section", "positions_um")}
        return replace(self, **parts, weights=None if self.weights is None else self.weights[rows])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and standard deviation (d,) of the features over the places under the spots, infinite for constants."""
        mean = self.mean.mean(axis=0)
        std = np.sqrt(np.maximum(self.square.mean(axis=0) - mean**2, 0))
        return mean, np.where(constant(std, mean), np.inf, std)

    def standardized(self, mean: np.ndarray, std: np.ndarray) -> Disks:
        """Features less a mean (d,), in units of a standard deviation (d,)."""
        places = None if self.places is None else standardize(self.places, mean, std)
        return replace(self, mean=(self.mean - mean) / std, places=places)


def standardize(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Features (m, d) float32 less a mean, in units of a standard deviation."""
    return (values - mean.astype(np.float32)) / std.astype(np.float32)


def joined(parts: Sequence[Disks]) -> Disks:
    """Spots of several sections."""
    from scipy.sparse import block_diag

    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("mean", "square", "section", "positions_um")
    }
    with_places = all(part.places is not None for part in parts)
    return Disks(
        **arrays,
        places=np.concatenate([part.places for part in parts if part.places is not None]) if with_places else None,
        weights=block_diag([part.weights for part in parts], format="csr") if with_places else None,
    )


def disk_folds(disks: Disks, reach_um: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks (n,) to choose a penalty or an epoch by: one section held out, or a stripe of the only one behind a buffer."""
    sections = np.unique(disks.section)
    if len(sections) > 1:
        return [(disks.section != code, disks.section == code) for code in sections]
    return stripe_folds(disks.positions_um, reach_um)


@dataclass(frozen=True)
class Shrunk:
    """How far predictions of each gene are pulled towards a center: both (g,)."""

    center: np.ndarray
    slope: np.ndarray

    @classmethod
    def none(cls, n_genes: int) -> Shrunk:
        """As they are."""
        return cls(np.zeros(n_genes), np.ones(n_genes))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Predictions (m, g), shrunk."""
        return np.asarray(self.center + self.slope * (values - self.center))

    def of_line(self, weight: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (d, g) and intercept (g,) of shrunk predictions."""
        return weight * self.slope, self(intercept)

    def facts(self) -> dict[str, Any]:
        """Quartiles of the slopes, where any is not 1."""
        if (self.slope == 1).all():
            return {}
        return {"shrinkage": [round(float(value), 3) for value in np.quantile(self.slope, (0.25, 0.5, 0.75))]}


def shrunk_by(center: np.ndarray, held_out: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Shrunk:
    """How far to believe predictions, by some (n, g) that did not see their truth (n, g), with the number of their fold (n,)."""
    if not held_out:
        return Shrunk.none(len(center))
    layer = Shrinkage(len(center))
    layer.center = torch.as_tensor(center, dtype=torch.float32)
    layer.fit(((torch.as_tensor(p), torch.as_tensor(y), torch.as_tensor(fold)) for p, y, fold in held_out), "held-out")
    return Shrunk(center, layer.slope.double().numpy())
