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
    """

    head: Batch
    blocks: Callable[[], Iterator[Batch]]

    def __iter__(self) -> Iterator[Batch]:
        return self.blocks()

    def __len__(self) -> int:
        return len(self.head)

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

    def whole(self) -> Batch:
        """All rows in one batch, for what cannot be solved in blocks."""
        parts = list(self)
        if len(parts) == 1:
            return parts[0]
        targets = [part.target for part in parts if part.target is not None]
        return replace(
            self.head,
            inputs={name: torch.cat([part[name] for part in parts]) for name in parts[0].inputs},
            target=torch.cat(targets) if len(targets) == len(parts) else None,
        )
