"""What a network is told about its task: how many outputs, how wide its inputs, which genes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Panel:
    """Genes by name, and what is known of them.

    Attributes
    ----------
    names
        Genes in the order of the outputs; empty where the outputs are no genes.
    tables
        Arrays (n_genes, d) by the name of the input, for networks that read tables of genes.
    """

    names: tuple[str, ...] = ()
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Shape:
    """Sizes of a network.

    Attributes
    ----------
    n_outputs
        Genes, classes or risks to predict.
    widths
        Length of the last axis of each input that has a width, for example `{"features": 1536}`.
    genes
        The genes behind the outputs, for networks that read tables of genes.
    """

    n_outputs: int
    widths: Mapping[str, int] = field(default_factory=dict)
    genes: Panel = field(default_factory=Panel)

    def width(self, name: str) -> int:
        """Width of an input; `ValueError` where it is not known."""
        if name not in self.widths:
            known = ", ".join(sorted(self.widths)) or "none"
            raise ValueError(f"expected the width of {name!r}; found those of: {known}; pass widths={{{name!r}: …}}")
        return int(self.widths[name])
