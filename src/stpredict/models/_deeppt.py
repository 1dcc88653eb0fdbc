"""DeepPT: tiles compressed by an autoencoder, a perceptron on each, and the mean of what it predicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.base._batch import Batch
from stpredict.models.base._predictor import HEAD, Stage
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._bag_layers import StandardizedBag, mean_of_tiles
from stpredict.models.nn._heads import RegressionHead

_COMPRESS, _PREDICT = "compress", "predict"


@dataclass(frozen=True)
class DeepPTConfig:
    """Hyperparameters of `deeppt`.

    Attributes
    ----------
    code
        Width of the compressed features.
    hidden
        Width of the hidden layer of the perceptron.
    gene_groups
        Number of perceptrons, each for the genes of similar median over the training slides; one for all by default.
    standardize
        Standardize the tokens, and predict in units of each gene's training standard deviation from its mean;
        `False` reads and predicts raw values.
    """

    code: int = 512
    hidden: int = 512
    gene_groups: int = 1
    standardize: bool = True


@register(
    "deeppt",
    config=DeepPTConfig,
    description="Perceptron on tiles compressed by an autoencoder; the slide is the mean of its tiles",
    paper="hoang2024",
    license_of_reference="none",
)
class DeepPT(StandardizedBag):
    """An autoencoder of tiles, trained first, and a perceptron on its code whose outputs are averaged over the slide.

    The last layer is affine, so that the mean is taken before it: the map of the single tiles averages to the slide.
    The autoencoder reads slides without expression as well.
    """

    stages = (
        Stage(_COMPRESS, {"monitor": "loss"}, trains=("encoder.", "decoder."), labeled=False),
        Stage(_PREDICT, trains=("body.", "head.")),
    )
    weighs_tiles = True
    own_tensors = (*HEAD, "group")
    small = {"code": 16, "hidden": 32}

    config: DeepPTConfig
    group: Tensor

    def __init__(self, config: DeepPTConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        n = config.gene_groups
        if not 1 <= n <= shape.n_outputs:
            raise ValueError(f"expected gene_groups between 1 and {shape.n_outputs}, the number of outputs; found {n}")
        self.encoder = nn.Linear(shape.width("tokens"), config.code)
        self.decoder = nn.Linear(config.code, shape.width("tokens"))
        self.body = nn.Linear(config.code, n * config.hidden)
        self.head = RegressionHead(config.hidden, shape.n_outputs, zero_init=config.standardize)
        self.register_buffer("group", torch.arange(shape.n_outputs) * n // shape.n_outputs)

    def remember(self, batches: Iterable[Batch]) -> None:
        """Sort the genes into groups of similar median, as equal in size as can be."""
        known = [values for batch in batches if (values := batch.outputs()) is not None]
        if self.config.gene_groups == 1 or not known:
            return
        rank = torch.cat(known).median(dim=0).values.argsort(stable=True).argsort()
        self.group.copy_(rank * self.config.gene_groups // self.n_outputs)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Squared error of the tiles that come out of the autoencoder, or the loss of the slides."""
        if stage.name != _COMPRESS:
            return super().step(batch, stage)
        tokens, size = super().tokens(batch["tokens"]), self.mask(batch)
        tokens = tokens.masked_fill((size <= 0).unsqueeze(-1), 0.0)
        error = (self.decoder(self._code(tokens)) - tokens).square().mean(dim=-1)
        return {"total": (error * size).sum() / size.sum()}

    def tokens(self, bag: Tensor) -> Tensor:
        """Hidden layers (..., gene_groups * hidden) of each token."""
        return F.relu(self.body(self._code(super().tokens(bag))))

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Mean of the hidden layers over the tiles that `mask` (n, n_tokens) counts."""
        return mean_of_tiles(tokens, mask)

    def read_out(self, pooled: Tensor, mask: Tensor | None = None, genes: slice = slice(None)) -> Tensor:
        """Predict some genes (n, g), in the unit of the target, from hidden layers (n, gene_groups * hidden)."""
        group, order = self.group[genes].sort(stable=True)
        sizes = group.bincount(minlength=self.config.gene_groups).tolist()
        weight, bias = self.head.mean.weight[genes][order], self.head.mean.bias[genes][order]
        hidden = pooled.unflatten(-1, (self.config.gene_groups, -1)).unbind(-2)
        parts = map(F.linear, hidden, weight.split(sizes), bias.split(sizes))
        return self.in_target_units(torch.cat(list(parts), dim=-1)[..., order.argsort()], genes)

    def _code(self, tokens: Tensor) -> Tensor:
        """Compress standardized tokens (..., n_features) to (..., code)."""
        return F.relu(self.encoder(tokens))
