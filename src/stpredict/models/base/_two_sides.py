"""Networks that place pictures and expression in one space."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from stpredict.models.base._batch import Batch


@runtime_checkable
class TwoSides(Protocol):
    """What a network with a common space defines, besides what a predictor does."""

    def embed_images(self, batch: Batch) -> Tensor:
        """Embed the picture of each observation: (n, d)."""
        ...

    def embed_spots(self, batch: Batch, expression: Tensor) -> Tensor:
        """Embed the expression (n, n_genes) of each observation: (n, d)."""
        ...
