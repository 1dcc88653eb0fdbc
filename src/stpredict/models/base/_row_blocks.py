"""Training rows a block at a time, for networks in closed form: no more of them in memory than a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from stpredict.models.base._batch import Batch

#: Rows of a block: enough for products of matrices at full speed, few beside the rows of a training set.
ROWS = 1024


@dataclass(frozen=True)
class RowBlocks:
    """Training rows in blocks, which can be gone through as often as needed.

    Attributes
    ----------
    head
        Section, patient and positions of all rows, in their order, without features and target.
    blocks
        Gives the rows from the first to the last, a block at a time.
    counts
        Of a target of counts: the same with the counts and depths of some genes, where the others need not be read for it.
    """

    head: Batch
    blocks: Callable[[], Iterator[Batch]]
    counts: Callable[[slice], Iterator[Batch]] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self.blocks()

    def __len__(self) -> int:
        return len(self.head)

    def of_genes(self, genes: slice, n_genes: int) -> Iterator[Batch]:
        """Blocks of a target of counts (m, 2 n_genes), with the counts and depths of some genes side by side."""
        if self.counts is not None:
            yield from self.counts(genes)
            return
        for block in self:
            assert block.target is not None  # of counts
            parts = block.target[:, :n_genes], block.target[:, n_genes:]
            yield replace(block, target=torch.cat([part[:, genes] for part in parts], dim=1))

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> RowBlocks:
        """Blocks of whatever a network was given: themselves, or batches that are in memory."""
        if isinstance(batches, RowBlocks):
            return batches
        parts = list(batches)
        positions = [part["positions"] for part in parts if "positions" in part]
        head = replace(
            parts[0],
            section=torch.cat([part.section for part in parts]),
            patient=torch.cat([part.patient for part in parts]),
            inputs={"positions": torch.cat(positions)} if len(positions) == len(parts) else {},
            target=None,
            labeled=None,
            sections=None,
            identity=None,
        )
        return cls(head, lambda: iter(parts))
