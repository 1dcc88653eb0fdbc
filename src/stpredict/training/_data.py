"""The training set as arrays, and the loader that turns it into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch

from stpredict.models import Batch, Summary
from stpredict.models.base._batch import Unit


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
    bag, bag_size
        (n, n_tokens, d) float32 tokens of each slide and (n, n_tokens) float32 tiles behind each token, or `None`.
    cell
        (n, 2) int64 row and column in the grid of the section, or `None`.
    target
        (n, n_genes) float32, or `None` where nothing was measured.
    counts, size_factor
        (n, n_genes) float32 raw counts and (n,) float32 total counts relative to their median, or `None`.
    label, n_classes
        (n,) int64 classes, -1 where they are not known, and their number; or `None` and 0.
    time, event
        (n,) float32 follow-up, or `None`.
    """

    section: np.ndarray
    patient: np.ndarray
    positions: np.ndarray | None = None
    features: np.ndarray | None = None
    patches: PatchSource | None = None
    bag: np.ndarray | None = None
    bag_size: np.ndarray | None = None
    cell: np.ndarray | None = None
    target: np.ndarray | None = None
    counts: np.ndarray | None = None
    size_factor: np.ndarray | None = None
    label: np.ndarray | None = None
    n_classes: int = 0
    time: np.ndarray | None = None
    event: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.section)

    def n_features(self, needs: frozenset[str]) -> int:
        """Width of the tokens or features that a network reads, 0 where it reads none."""
        values = self.bag if "bag" in needs else self.features
        return 0 if values is None else values.shape[-1]

    @property
    def n_outputs(self) -> int:
        """Genes to predict; one logit per class (one in all of two), or one log risk, where these are asked for."""
        if self.time is not None:
            return 1
        if self.label is not None:
            return 1 if self.n_classes == 2 else self.n_classes
        assert self.target is not None
        return self.target.shape[1]

    def take(self, index: np.ndarray) -> ArraySet:
        """Rows by integer index or mask."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        patches, n_classes = values.pop("patches"), values.pop("n_classes")
        taken: dict[str, Any] = {name: None if value is None else value[index] for name, value in values.items()}
        return ArraySet(**taken, n_classes=n_classes, patches=None if patches is None else _Rows(patches, index))

    def permuted(self, seed: int) -> ArraySet:
        """The same inputs with the targets shuffled: among the rows of each section, or of slides among patients."""
        if self.target is None and self.label is None:
            raise ValueError("expected a target to permute; found none")
        rng = np.random.default_rng(seed)
        order = np.arange(len(self))
        _, first, patient = np.unique(self.patient, return_index=True, return_inverse=True)
        if len(first) > 1 and len(np.unique(self.section)) == 1:
            # Slides of a patient keep one profile: each patient gets that of another's first slide.
            order = rng.permutation(first)[patient]
        else:
            for code in np.unique(self.section):
                rows = np.flatnonzero(self.section == code)
                order[rows] = rng.permutation(rows)
        measured = {name: getattr(self, name) for name in ("target", "counts", "size_factor", "label")}
        return replace(self, **{name: values[order] for name, values in measured.items() if values is not None})

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
            bag=tensor("bag") if needs is None or "bag" in needs else None,
            bag_size=tensor("bag_size") if needs is None or "bag" in needs else None,
            cell=tensor("cell") if needs is None or "grid" in needs else None,
            target=tensor("target"),
            counts=tensor("counts") if needs is None or "counts" in needs else None,
            size_factor=tensor("size_factor") if needs is None or "counts" in needs else None,
            label=tensor("label"),
            time=tensor("time"),
            event=tensor("event"),
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
    """Batches of an :class:`ArraySet`: `batch_size` spots, bags or grids, or one whole section, at a time.

    Parameters
    ----------
    data
        The rows.
    unit
        `"spot"` and `"bag"`: shuffled rows; `"grid"`: several whole sections; `"section"`: one.
    batch_size
        Spots, bags or grids per batch.
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
        groups = row_groups(self.data, self.unit, self.batch_size)
        if not self.shuffle:
            return groups
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.unit in _ROWS:
            order = rng.permutation(len(self.data))
            return [order[rows] for rows in groups]
        if self.unit == "grid":
            sections = rng.permutation(np.unique(self.data.section))
            return _whole_sections(self.data, sections, self.batch_size)
        return [groups[i] for i in rng.permutation(len(groups))]

    def __iter__(self) -> Iterator[Batch]:
        groups = self._groups()
        self.epoch += 1
        for index in groups:
            yield self.data.batch(index, self.needs)

    def __len__(self) -> int:
        if self.unit in _ROWS:
            return -(-len(self.data) // self.batch_size)
        n_sections = len(np.unique(self.data.section))
        return -(-n_sections // self.batch_size) if self.unit == "grid" else n_sections


_ROWS = frozenset({"spot", "bag"})  # units whose examples are single rows


def row_groups(data: ArraySet, unit: Unit, batch_size: int) -> list[np.ndarray]:
    """Rows of each batch, in order: `batch_size` of them, those of `batch_size` sections, or those of one."""
    if unit in _ROWS:
        rows = np.arange(len(data))
        return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return _whole_sections(data, np.unique(data.section), batch_size if unit == "grid" else 1)


def _whole_sections(data: ArraySet, sections: np.ndarray, per_batch: int) -> list[np.ndarray]:
    starts = range(0, len(sections), per_batch)
    return [np.flatnonzero(np.isin(data.section, sections[start : start + per_batch])) for start in starts]


def summarize(data: ArraySet, needs: frozenset[str] = frozenset({"features"})) -> Summary:
    """Means and standard deviations of what a network reads and of the target; constant columns get an SD of 1.

    Of bags, those over all tokens that are not padding. Of outcomes, mean 0 and standard deviation 1; of classes, the
    logits of their shares, so that a network starts from these as it starts from the mean of a gene.
    """

    def moments(values: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
        std[std <= 1e-6 * np.maximum(np.abs(mean), 1e-6)] = 1.0
        return torch.from_numpy(mean).float(), torch.from_numpy(std).float()

    if data.time is not None:
        target_mean, target_std = torch.zeros(data.n_outputs), torch.ones(data.n_outputs)
    elif data.label is not None:
        share = np.bincount(data.label[data.label >= 0], minlength=data.n_classes) + 0.5
        logit = torch.from_numpy(np.log(share / share.sum())).float()
        target_mean = logit[1:] - logit[:1] if data.n_classes == 2 else logit
        target_std = torch.ones(data.n_outputs)
    elif data.target is None:
        raise ValueError("expected a measured target to train on; found none")
    else:
        target_mean, target_std = moments(data.target)
    values = data.features
    if "bag" in needs and data.bag is not None and data.bag_size is not None:
        values = data.bag[data.bag_size > 0]
    feature_mean, feature_std = (None, None) if values is None else moments(values)
    return Summary(len(data), target_mean, target_std, feature_mean, feature_std)
