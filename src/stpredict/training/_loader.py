"""The loader that turns a training set into batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import numpy as np

from stpredict.core._count_rows import CountRows
from stpredict.models import Batch, Predictor
from stpredict.models.base._row_blocks import ROWS, RowBlocks
from stpredict.training._data import ArraySet, TakenRows

Draws = Literal["rows", "sections", "section_rows", "patient_rows"]
#: What all rows of a batch have in common.
_APART = {"section_rows": "section", "patient_rows": "patient"}


class Loader:
    """Batches of an :class:`stpredict.training.ArraySet`: some rows, or some whole sections, at a time.

    Parameters
    ----------
    data
        The rows.
    draws
        `"rows"`: shuffled rows; `"sections"`: whole sections; `"section_rows"`, `"patient_rows"`: shuffled rows, each
        batch of one section or one patient.
    batch_size
        Rows, or sections, per batch.
    needs
        Inputs to fill.
    shuffle
        Whether every epoch has an order of its own.
    seed
        Random seed for the order, which depends on nothing else, so that it is the same on any machine.
    num_workers
        Threads that read batches ahead; none for 0.

    Attributes
    ----------
    rank, n_ranks
        Which of several processes this is. All of them go through the same steps, and have different rows of each.
    """

    def __init__(
        self,
        data: ArraySet,
        draws: Draws = "rows",
        *,
        batch_size: int = 256,
        needs: frozenset[str] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        self.data, self.draws, self.batch_size, self.needs, self.shuffle = data, draws, batch_size, needs, shuffle
        self.seed, self.num_workers = seed, num_workers
        self.epoch = 0
        self.rank, self.n_ranks = 0, 1
        self._shares: list[float] = [1.0]

    def _groups(self) -> Sequence[np.ndarray]:
        if not self.shuffle:
            return row_groups(self.data, self.draws, self.batch_size)
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.draws in _APART:
            groups = row_groups(self.data, self.draws, self.batch_size, rng.permutation(len(self.data)))
            return [groups[i] for i in rng.permutation(len(groups))]
        if self.draws == "rows":
            order = rng.permutation(len(self.data))
            return [order[rows] for rows in row_groups(self.data, self.draws, self.batch_size)]
        return _whole_sections(self.data, rng.permutation(np.unique(self.data.section)), self.batch_size)

    @property
    def _one_each(self) -> bool:
        """Whether processes take whole groups in turn: where nothing is learned, or a group cannot be divided."""
        return not self.shuffle or (self.draws == "sections" and self.batch_size == 1)

    def __iter__(self) -> Iterator[Batch]:
        groups = self._groups()
        self.epoch += 1
        if self.n_ranks == 1:
            self._shares = [1.0] * len(groups)
            own = groups
        else:
            parts = [self._part(groups, step) for step in range(len(self))]
            own, self._shares = [rows for rows, _ in parts], [share for _, share in parts]
        yield from _in_order(lambda index: self.data.batch(index, self.needs), own, self.num_workers)

    def __len__(self) -> int:
        if self.draws in _APART:
            codes = getattr(self.data, _APART[self.draws])
            n_groups = int((-(-np.unique(codes, return_counts=True)[1] // self.batch_size)).sum())
        else:
            n = len(self.data) if self.draws == "rows" else len(np.unique(self.data.section))
            n_groups = -(-n // self.batch_size)
        return -(-n_groups // self.n_ranks) if self._one_each else n_groups

    def share(self, step: int) -> float:
        """What the mean over the rows here counts in a step, 1 on average over the processes: 0 where rows stand in for none."""
        return self._shares[step]

    def number(self, step: int) -> int:
        """Which group of all processes a step is, where they take whole groups in turn."""
        return step * self.n_ranks + self.rank

    def _part(self, groups: Sequence[np.ndarray], step: int) -> tuple[np.ndarray, float]:
        """Rows of a step for this process, and their share; some rows stand in where there are none for it."""
        n = self.n_ranks
        if self._one_each:
            together, number = min(n, len(groups) - step * n), self.number(step)
            return (groups[number], n / together) if number < len(groups) else (groups[-1], 0.0)
        index = groups[step]
        if self.draws == "sections":
            code = self.data.section[index]
            own = index[np.isin(code, np.array_split(np.unique(code), n)[self.rank])]
        else:
            own = np.array_split(index, n)[self.rank]
        return (own, n * len(own) / len(index)) if len(own) else (index[:1], 0.0)


def _in_order(make: Callable[[np.ndarray], Batch], groups: Sequence[np.ndarray], num_workers: int) -> Iterator[Batch]:
    """Batches one after the other; with workers, those to come are made by threads meanwhile, two ahead for each."""
    if not num_workers:
        yield from map(make, groups)
        return
    left, waiting = iter(groups), deque[Future[Batch]]()
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="stpredict-loader")
    try:
        waiting.extend(pool.submit(make, index) for index in islice(left, 2 * num_workers))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(make, index) for index in islice(left, 1))
            yield batch
    finally:  # also where the training ends in the middle
        pool.shutdown(cancel_futures=True)


def loader_for(network: Predictor, data: ArraySet, batch_size: int, **options: Any) -> Loader:
    """Batches as a network draws them; one section at a time where it takes no more."""
    size = 1 if network.draws == "sections" and not network.several_sections else batch_size
    return Loader(data, network.draws, batch_size=size, needs=network.needs, **options)


def row_groups(data: ArraySet, draws: Draws, batch_size: int, order: np.ndarray | None = None) -> list[np.ndarray]:
    """Rows of each batch, in order: `batch_size` of them, of any or of one section or patient, or whole sections.

    `order` (n,) is that of the rows within their sections or patients, for batches of one.
    """
    if draws in _APART:
        order = np.arange(len(data)) if order is None else order
        groups, codes = [], getattr(data, _APART[draws])
        for code in np.unique(codes):
            rows = order[codes[order] == code]
            # As many rows in each, so that no step sees a few only.
            groups += np.array_split(rows, -(-len(rows) // batch_size))
        return groups
    if draws == "rows":
        rows = np.arange(len(data))
        return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return _whole_sections(data, np.unique(data.section), batch_size)


def _whole_sections(data: ArraySet, sections: np.ndarray, per_batch: int) -> list[np.ndarray]:
    starts = range(0, len(sections), per_batch)
    return [np.flatnonzero(np.isin(data.section, sections[start : start + per_batch])) for start in starts]


def row_blocks(data: ArraySet, needs: frozenset[str]) -> RowBlocks:
    """All rows in their order, a block at a time: what is read of the data is never more than that."""
    codes = replace(data, target=None).batch(np.arange(len(data)), frozenset())

    def blocks(part: ArraySet = data) -> Iterator[Batch]:
        for rows in row_groups(part, "rows", ROWS):
            yield part.batch(rows, needs)

    source = data.target.source if isinstance(data.target, TakenRows) else data.target
    if not isinstance(source, CountRows):
        return RowBlocks(codes, blocks)

    def counts(genes: slice) -> Iterator[Batch]:
        target: Any = source.genes(genes)
        target = TakenRows(target, data.target.index) if isinstance(data.target, TakenRows) else target
        return blocks(replace(data, target=target))

    return RowBlocks(codes, blocks, counts)
