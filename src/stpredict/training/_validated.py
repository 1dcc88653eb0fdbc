"""What a validation keeps of its batches until all of them have been seen."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Validated:
    """Tensors of batches by name, one below the other in memory that is taken once.

    Small tensors that are kept between large ones that are not leave holes in the memory, which then grows with the batches.

    Parameters
    ----------
    n_rows
        Most rows that are kept.
    """

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        self._whole: dict[str, Tensor] = {}
        self._places: list[tuple[int, int, int]] = []

    def __len__(self) -> int:
        return len(self._places)

    def add(self, number: int, **tensors: Tensor) -> None:
        """Keep the tensors (m, …) of a batch on the CPU."""
        start = self._places[-1][2] if self._places else 0
        stop = start + len(next(iter(tensors.values())))
        for name, tensor in tensors.items():
            if name not in self._whole:
                self._whole[name] = torch.empty((self.n_rows, *tensor.shape[1:]), dtype=tensor.dtype)
            self._whole[name][start:stop] = tensor
        self._places.append((number, start, stop))

    def all(self) -> dict[str, Tensor]:
        """Everything that was kept, in the order in which it came."""
        stop = self._places[-1][2] if self._places else 0
        return {name: tensor[:stop] for name, tensor in self._whole.items()}

    def parts(self) -> list[tuple[int, dict[str, Tensor]]]:
        """The tensors of each batch, with its number."""
        return [
            (number, {name: tensor[start:stop].clone() for name, tensor in self._whole.items()})
            for number, start, stop in self._places
        ]

    def clear(self) -> None:
        """Forget the batches; the memory stays for the next ones."""
        self._places.clear()


def joined(parts: Iterable[tuple[int, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Tensors of numbered batches of several processes, in the order of one."""
    ordered = [tensors for _, tensors in sorted(parts, key=lambda part: part[0])]
    return {name: torch.cat([tensors[name] for tensors in ordered]) for name in ordered[0]} if ordered else {}
