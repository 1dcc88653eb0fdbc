"""What networks share that read a bag of tokens for each slide."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import Predictor


class BagPredictor(Predictor):
    """Base of networks on bags, in three stages that slides and sliding windows share.

    `tokens` treats each token alone, so that a map computes it once per tile; `pool` joins the tokens of one slide or
    window; `read_out` turns what is pooled into genes, or into a slice of them, so that a map of any number of genes
    needs the memory of one slice.
    """

    needs = frozenset({"tokens", "token_size"})
    per_prediction = 64
    #: Whether `read_out` is affine in what `pool` returns: then the mean over windows can be taken before it.
    affine_read_out: ClassVar[bool] = True
    #: Whether tiles count alike, so that `pool` is told how many are behind each token, and not only which tokens there are.
    weighs_tiles: ClassVar[bool] = False
    #: Whether it was trained on nothing smaller than a slide, so that what it says of a tile or a window is extrapolated.
    maps_extrapolate: ClassVar[bool] = False

    def tokens(self, bag: Tensor) -> Tensor:
        """Map tokens (..., n_features) to (..., h), each one alone."""
        return bag

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Join the tokens (n, n_tokens, h) where `mask` (n, n_tokens) is true, or by the tiles that it counts.

        Returns
        -------
        (n, p) where `affine_read_out`, any shape that `read_out` takes otherwise.
        """
        raise TypeError(f"{type(self).__name__} defines no pool")

    def read_out(self, pooled: Tensor, mask: Tensor | None = None, genes: slice = slice(None)) -> Tensor:
        """Predict some genes (n, g), in the unit of the target, from what `pool` returned."""
        raise TypeError(f"{type(self).__name__} defines no read_out")

    def mask(self, batch: Batch) -> Tensor:
        """Which tokens there are (n, n_tokens), or the number of tiles behind each where the network `weighs_tiles`."""
        return batch["token_size"] if self.weighs_tiles else batch["token_size"] > 0

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch of slides."""
        mask = self.mask(batch)
        return Prediction(self.read_out(self.pool(self.tokens(batch["tokens"]), mask), mask))
