"""The training set as arrays, and the loader that turns it into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch

from stpredict.models import Batch, Summary
from stpredict.models._base import Unit


class PatchSource(Protocol):
    """Anything that gives patches by row: an array, a memory map, or a stack of memory maps."""

    def __getitem__(self, index: Any) -> np.ndarray: ...

    def __len__(self) -> int: ...


@dataclass
class ArraySet:
    """Everything networks may need, row by row, without a container.

    Attributes
    ----------
    section, patient
        (n,) int64 codes.
    positions
        (n, 2) float32 µm.
    features
        (n, d) float32, or `None`.
    patches
        (n, h, w, 3) uint8 by row, or `None`.
    target
        (n, n_genes) float32, or `None` where nothing was measured.
    """

    section: np.ndarray
    patient: np.ndarray
    positions: np.ndarray | None = None
    features: np.ndarray | None = None
    patches: PatchSource | None = None
    target: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.section)

    @property
    def n_features(self) -> int:
        """Width of the features, 0 where there are none."""
        return 0 if self.features is None else self.features.shape[1]

    def take(self, index: np.ndarray) -> ArraySet:
        """Rows by integer index or mask."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        patches = values.pop("patches")
        taken: dict[str, Any] = {name: None if value is None else value[index] for name, value in values.items()}
        return ArraySet(**taken, patches=None if patches is None else _Rows(patches, index))

    def permuted(self, seed: int) -> ArraySet:
        """The same inputs with the targets shuffled among the rows of each section."""
        if self.target is None:
            raise ValueError("expected a target to permute; found none")
        rng = np.random.default_rng(seed)
        order = np.arange(len(self))
        for code in np.unique(self.section):
            rows = np.flatnonzero(self.section == code)
            order[rows] = rng.permutation(rows)
        return replace(self, target=self.target[order])

    def batch(self, index: np.ndarray, needs: frozenset[str] | None = None) -> Batch:
        """Tensors of some rows; only what is in `needs`, or everything."""

        def tensor(name: str) -> torch.Tensor | None:
            values = getattr(self, name)
            return None if values is None else torch.from_numpy(np.ascontiguousarray(values[index]))

        patches = None
        if self.patches is not None and (needs is None or "patches" in needs):
            patches = torch.from_numpy(np.ascontiguousarray(self.patches[index])).permute(0, 3, 1, 2)
        section, patient = tensor("section"), tensor("patient")
        assert section is not None
        assert patient is not None
        return Batch(
            section=section,
            patient=patient,
            positions=tensor("positions"),
            features=tensor("features") if needs is None or "features" in needs else None,
            patches=patches,
            target=tensor("target"),
        )


class _Rows:
    """A view of some rows of a patch source, without reading them."""

    def __init__(self, source: PatchSource, index: np.ndarray) -> None:
        self.source, self.index = source, index
        if isinstance(source, _Rows):
            self.source, self.index = source.source, source.index[index]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.source[self.index[index]]

    def __len__(self) -> int:
        return len(self.index)


class Loader:
    """Batches of an :class:`ArraySet`: `batch_size` spots, or one whole section, at a time.

    Parameters
    ----------
    data
        The rows.
    unit
        `"spot"`: shuffled rows; anything else: whole sections.
    batch_size
        Spots per batch.
    needs
        Tensors to fill.
    shuffle
        New order in every epoch.
    seed
        Of the order; it depends on nothing else, so that it is the same on any machine.
    """

    def __init__(
        self,
        data: ArraySet,
        unit: Unit = "spot",
        *,
        batch_size: int = 256,
        needs: frozenset[str] | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        self.data, self.unit, self.batch_size, self.needs, self.shuffle = data, unit, batch_size, needs, shuffle
        self.seed = seed
        self.epoch = 0

    def _groups(self) -> Sequence[np.ndarray]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.unit == "spot":
            order = rng.permutation(len(self.data)) if self.shuffle else np.arange(len(self.data))
            return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        sections = np.unique(self.data.section)
        if self.shuffle:
            sections = rng.permutation(sections)
        return [np.flatnonzero(self.data.section == code) for code in sections]

    def __iter__(self) -> Iterator[Batch]:
        groups = self._groups()
        self.epoch += 1
        for index in groups:
            yield self.data.batch(index, self.needs)

    def __len__(self) -> int:
        if self.unit == "spot":
            return -(-len(self.data) // self.batch_size)
        return len(np.unique(self.data.section))


def summarize(data: ArraySet) -> Summary:
    """Means and standard deviations of features and target; constant columns get a standard deviation of 1."""

    def moments(values: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
        std[std <= 1e-6 * np.maximum(np.abs(mean), 1e-6)] = 1.0
        return torch.from_numpy(mean).float(), torch.from_numpy(std).float()

    if data.target is None:
        raise ValueError("expected a measured target to train on; found none")
    target_mean, target_std = moments(data.target)
    feature_mean, feature_std = (None, None) if data.features is None else moments(data.features)
    return Summary(len(data), target_mean, target_std, feature_mean, feature_std)
