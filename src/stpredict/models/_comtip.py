"""CoMTIP: pictures and sentences of genes with their values in one space, so that any gene can be asked for by its text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._gene_rows import ReadsGeneRows
from stpredict.models.base._predictor import Stage
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Panel, Shape
from stpredict.models.base._shrinking import ShrinkingPredictor
from stpredict.models.nn._augment import augmented, standardized, symmetry
from stpredict.models.nn._branches import check_neighbors
from stpredict.models.nn._comtip_config import CELL_PX, CoMTIPConfig
from stpredict.models.nn._contrast import info_nce, inverse_temperature
from stpredict.models.nn._gene_sentences import (
    GeneSentences,
    Nudge,
    discriminator_loss,
    quantiles,
    steepest,
    swapped,
)
from stpredict.models.nn._heads import QueryHead
from stpredict.models.nn._masked_tokens import MaskedTokens, hide, masked_feature_loss
from stpredict.models.nn._shrinkage import Shrinkage
from stpredict.models.nn._standardize import Standardize

_MANY_GENES = 2000  # above which several latents pool a sentence
_HELD = 10  # of so many genes of the panel one has no part in the sentences of the training
_ROUNDING = 1e-5  # of a cosine
_KEPT = (0.01, 0.5)  # share of the genes that a sentence of a training step holds
_REVERSAL = 0.1


PRETRAIN = Stage("pretrain", labeled=False, training={"monitor": "loss"}, trains=(
    "image.", "image_head.", "image_norm.", "gene.", "gene_head.", "gene_norm.", "discriminator.", "logit_scale",
))  # fmt: skip
HEAD_STAGE = Stage("head", trains=("head.",))


@register(
    "comtip",
    config=CoMTIPConfig,
    description="Pictures and sentences of genes with their values in one space; genes never seen are asked for by their text",
    paper="qian2025",
)
class CoMTIP(ReadsGeneRows, ShrinkingPredictor):
    """Two sides drawn together by contrast: tokens of a picture, of which some are hidden, and sentences of genes and values.

    The first stage trains both, the image side on pictures that were not measured as well; the second a head on the
    embedding of the picture, which predicts the panel. A gene that was never seen is predicted by sentences of it alone, one
    for each value of a grid: by the contrast, how well one fits the picture tells how likely the value is.

    Values are the target in units of each gene's training mean and standard deviation, so that neither depth (where the target
    carries none) nor how abundant a gene is tells a value.

    One gene of ten has no part in any sentence of the training: what is said of these genes in held-out rows tells how far to
    believe what is said of genes never seen. The head predicts them like any other.
    """

    only_expression = True
    needs = frozenset({"neighbors", "neighbor_mask", "gene_table"})
    per_prediction = 256
    stages: tuple[Stage, ...] = (PRETRAIN, HEAD_STAGE)
    training_defaults = {
        "learning_rate": 3e-4, "weight_decay": 0.05, "batch_size": 256, "max_epochs": 50, "patience": 10,
    }  # fmt: skip
    presets = {
        "tiles": Preset({"image": "patches"}, {"learning_rate": 1e-4, "schedule": "cosine"}, widths={"gene_table": 768})
    }
    small = {
        "dim": 32, "depth": 1, "heads": 2, "mlp": 2.0, "dropout": 0.0, "n_embedding": 32, "n_bins": 8, "n_grid": 8, "n_single": 4,
        "patch_px": 64,
    }  # fmt: skip
    own_tensors: ClassVar[tuple[str, ...]] = (
        *ShrinkingPredictor.own_tensors,
        "zero_shot.",
        "table",
        "level",
        "grid",
        "gene.edges",
    )
    calibrated: ClassVar[tuple[str, ...]] = (*ShrinkingPredictor.calibrated, "zero_shot.")

    config: CoMTIPConfig
    grid: Tensor
    taught: Tensor
    held: Tensor

    def __init__(self, config: CoMTIPConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.make_gene_rows(shape)
        width, side = 3 * CELL_PX**2, config.patch_px // CELL_PX
        if config.image != "patches":
            width, side = shape.width(config.image), 5 if config.image == "neighbors" else 1
            self.standardize = Standardize(width, of=config.image)
        self.side = side
        self.image = MaskedTokens(width, config.dim, side, config.depth, config.heads, config.mlp, config.dropout)
        many = shape.n_outputs > _MANY_GENES
        self.gene = GeneSentences(
            self.table.shape[1], config.dim, config.n_bins, bind=config.bind, heads=config.heads, mlp=config.mlp,
            n_latents=config.n_latents or (16 if many else 1), depth=2 if many else 1, chunk=config.chunk,
        )  # fmt: skip
        n = config.n_embedding
        self.image_head, self.image_norm = nn.Linear(config.dim, n), nn.LayerNorm(n)
        self.gene_head, self.gene_norm = nn.Linear(config.dim, n), nn.LayerNorm(n)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        self.register_buffer("grid", torch.zeros(config.n_grid))
        if config.paat == "discriminator":
            self.discriminator = nn.Sequential(nn.Linear(config.dim, config.dim), nn.GELU(), nn.Linear(config.dim, 1))
        if config.head == "mlp":
            last = nn.Linear(config.dim, shape.n_outputs)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.head: nn.Module = nn.Sequential(nn.Linear(n, config.dim), nn.GELU(), last)
        elif config.head == "query":
            self.head = QueryHead(n, config.dim, shape.n_outputs)
        else:
            self.stages = (PRETRAIN,)
        every = range(shape.n_outputs)
        held = list(every[_HELD - 1 :: _HELD]) or list(every)
        taught = [gene for gene in every if gene % _HELD != _HELD - 1]
        self.register_buffer("taught", torch.tensor(taught), persistent=False)
        self.register_buffer("held", torch.tensor(held), persistent=False)
        self.zero_shot = Shrinkage(len(self.held))

    @classmethod
    def reads(cls, config: CoMTIPConfig) -> frozenset[str]:
        """What a spot is seen as, and the table of genes."""
        image = {"neighbors", "neighbor_mask"} if config.image == "neighbors" else {config.image}
        return frozenset({"gene_table", *image})

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set before training."""
        super().prepare(summary)
        self.take_levels(self.taught)

    def remember(self, batches: Iterable[Batch]) -> None:
        """Take the bins of values, and the values that genes never seen may have, from the training rows."""
        parts = [batch.outputs() for batch in batches]
        values = torch.cat([self._values(part) for part in parts if part is not None])
        self.gene.take(values)
        n = len(self.grid)
        self.grid.copy_(quantiles(values, (torch.arange(n) + 0.5) / n))

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens (n, side², d) of the pictures, and which of them there are (n, side²)."""
        kind = self.config.image
        if kind == "patches":
            images = standardized(batch["patches"])
            if self.training:
                jitter = self.config.stain_jitter
                images = augmented(batch["patches"], symmetries=self.config.symmetries, stain_jitter=jitter)
            tokens = F.unfold(images, CELL_PX, stride=CELL_PX).transpose(1, 2)
            return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        tokens = self.standardize(batch[kind])
        if kind == "features":
            return tokens.unsqueeze(1), torch.ones(len(tokens), 1, dtype=torch.bool, device=tokens.device)
        check_neighbors(batch["neighbors"])
        mask = batch["neighbor_mask"]
        if self.training and self.config.symmetries:
            cells = torch.arange(self.side**2).reshape(1, 1, self.side, self.side)
            order = symmetry(cells, int(torch.randint(8, ()))).flatten().to(mask.device)
            tokens, mask = tokens[:, order], mask[:, order]
        return tokens.masked_fill(~mask.unsqueeze(2), 0), mask

    def embed_images(self, batch: Batch) -> Tensor:
        """Embed the picture of each spot: (n, n_embedding), of length 1."""
        tokens, mask = self.tokens(batch)
        return self._image(self.image(tokens, mask))

    def embed_spots(self, batch: Batch, expression: Tensor) -> Tensor:
        """Embed the expression (n, n_genes) of each spot as one sentence: (n, n_embedding), of length 1."""
        return self._sentence(self.gene(self._texts(), self._values(expression)[:, self.taught]))

    def encode(self, batch: Batch) -> Tensor:
        """The embedded pictures."""
        return self.embed_images(batch)

    def decode(self, hidden: Tensor, genes: Panel) -> Prediction:
        """Predict genes: those of the panel by the head, where there is one, others by sentences of them alone."""
        at = self.place_in_panel(genes)
        if self.config.head == "grid":
            at = torch.full_like(at, -1)
        values = hidden.new_empty(len(hidden), len(at))
        values[:, at < 0] = self.asked(hidden, self.rows_of(genes)[at < 0])
        if (at >= 0).any():
            values[:, at >= 0] = self._head(hidden)[:, at[at >= 0]]
        return self.in_units(values, genes, self.zero_shot.slope.mean() if self.zero_shot.known else None)

    def forward(self, batch: Batch) -> Prediction:
        """Predict the panel by the head, or without one as genes never seen are."""
        image = self.embed_images(batch)
        values = self.asked(image, self.table) if self.config.head == "grid" else self._head(image)
        return Prediction(self.target_mean + self.target_std * values, extras={"image": image})

    def predict(self, batch: Batch, *, n_samples: int = 0, generator: Generator | None = None) -> Prediction:
        """Predict a batch, as sure as held-out observations allow."""
        return self.shrunk(self(batch))

    def asked(self, image: Tensor, rows: Tensor) -> Tensor:
        """Predict standardized values (n, g) of genes by their rows (g, d): the mean of the grid, by how well each value fits.

        Sentences of a gene alone are compared with the embedded pictures (n, n_embedding). Where the contrast is at its best, a
        scaled cosine is the logarithm of how much likelier the value is with the picture than without, up to a constant of
        the picture; values of the grid are equally likely without one.
        """
        scale, found = inverse_temperature(self.logit_scale), []
        for texts in self.of_genes(rows).split(max(1, self.config.chunk // len(self.grid))):
            values = self.grid.unsqueeze(1).expand(-1, len(texts))
            sentences = self._sentence(self.gene.single(texts, values))
            weight = (scale * torch.einsum("nd,mgd->nmg", image, sentences)).float().softmax(dim=1)
            found.append(torch.einsum("nmg,m->ng", weight, self.grid))
        return torch.cat(found, dim=1) if found else image.new_zeros(len(image), 0)

    def tells_swaps(self, image: Tensor, expression: Tensor) -> Tensor:
        """Whether each picture (n, n_embedding) fits its expression (n, n_genes) better than with exchanged values: 0 to 1."""
        values, texts = self._values(expression)[:, self.taught], self._texts()
        apart = self._fit(image, texts, values) - self._fit(image, texts, swapped(values, self.config.swapped))
        return (apart > _ROUNDING).float() + (apart.abs() <= _ROUNDING).float() / 2

    def calibrate(self, batches: Iterable[Batch], held_out: Iterable[Batch]) -> None:
        """Compare what is predicted of held-out rows with their expression, by the head and by sentences of held-out genes."""
        seen: list[tuple[Tensor, Tensor, Tensor]] = []

        def compared() -> Iterator[Batch]:
            for batch in held_out:
                truth = batch.measured()
                if truth is not None:
                    rows = self.table[self.held]
                    mean, std = self.levels(rows)
                    values = mean + std * self.asked(self.embed_images(batch), rows)
                    seen.append((values, truth[:, self.held], batch.section))
                yield batch

        super().calibrate(batches, compared())
        if seen:
            self.zero_shot.center = self.shrinkage.center[self.held]
            self.zero_shot.fit(seen, "held-out")

    def facts(self) -> dict[str, Any]:
        """Which rows the slopes are of, and quartiles of them over genes, of the head and of sentences of a gene."""
        return super().facts() | {f"zero_shot_{name}": fact for name, fact in self.zero_shot.facts().items()}

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Contrast, hidden tokens and pairs in the first stage, the loss of the target in the second."""
        if stage.name == HEAD_STAGE.name:
            return self.loss(self(batch), batch)
        tokens, mask = self.tokens(batch)
        features = self.image(tokens, mask)
        image = self._image(features)
        parts, total = {}, 0 * image.sum()
        hidden = hide(mask, self.config.masked)
        told = masked_feature_loss(self.image.told(tokens, mask & ~hidden), features, hidden) if hidden.any() else None
        if told is not None:
            parts["masked"], total = told, total + self.config.mfm_weight * told
        expression = batch.outputs()
        if expression is None:
            raise ValueError(
                f"expected expression to train on; found none; {type(self).__name__} predicts nothing else"
            )
        rows = slice(None) if batch.labeled is None else batch.labeled
        if len(image[rows]):
            found = self.aligned(image[rows], self._values(expression[rows]))
            weights = {
                "contrast": 1.0, "pair": self.config.pair_weight, "discriminator": self.config.pair_weight,
                "adversarial": self.config.adversarial_weight,
            }  # fmt: skip
            total = total + sum(weights[name] * loss for name, loss in found.items() if name in weights)
            parts |= found
        return {"total": total, **parts}

    def aligned(self, image: Tensor, values: Tensor) -> dict[str, Tensor]:
        """Losses between pictures (n, n_embedding) and sentences of drawn genes with their standardized values (n, n_genes)."""
        config, scale = self.config, inverse_temperature(self.logit_scale)
        rows, values = self._texts(), values[:, self.taught]
        alone = torch.randperm(values.shape[1])[: config.n_single].to(values.device)
        single = self._sentence(self.gene.single(rows[alone], values[:, alone])).transpose(0, 1)
        chosen = self._drawn(values.shape[1]).to(values.device)
        texts, values = rows[chosen], values[:, chosen]
        pairs = len(chosen) > 1
        nudge = None
        if config.paat == "swap" and self.training and config.adversarial_weight > 0:
            zeros = (texts.new_zeros(*shape, config.dim, requires_grad=True) for shape in (chosen.shape, values.shape))
            nudge = Nudge(*zeros)
        sentence = self._sentence(self.gene(texts, values, nudge))
        contrast = info_nce(image, sentence, scale)
        parts = {"contrast": (contrast + info_nce(image, single, scale)) / 2}
        if config.paat == "discriminator" and pairs:
            false = swapped(values, config.swapped)
            parts["discriminator"] = discriminator_loss(self.gene, self.discriminator, texts, values, false, _REVERSAL)
        elif pairs:
            parts["pair"] = self.pair_loss(image, texts, values, (image * sentence).sum(dim=1))
        if nudge is not None:
            gradient = torch.autograd.grad(info_nce(image.detach(), sentence, scale), nudge, retain_graph=True)
            with torch.no_grad():
                embedded = self.gene.text_proj(texts), self.gene.values(values)
                moved = (steepest(g, e, config.step_size) for g, e in zip(gradient, embedded, strict=True))
            parts["adversarial"] = info_nce(image, self._sentence(self.gene(texts, values, Nudge(*moved))), scale)
        return parts

    def pair_loss(self, image: Tensor, texts: Tensor, values: Tensor, true: Tensor) -> Tensor:
        """How little better pictures fit sentences, by the cosine `true` (n,), than the same with exchanged values."""
        false = self._fit(image, texts, swapped(values, self.config.swapped))
        return F.softplus(inverse_temperature(self.logit_scale) * (false - true)).mean()

    def _drawn(self, n_genes: int) -> Tensor:
        """Genes of a training sentence: 1 to 50 % of the panel, at least two where there are as many."""
        low, high = _KEPT
        share = low + (high - low) * float(torch.rand(()))
        n = min(max(2, round(share * n_genes)), self.config.n_genes, n_genes)
        return torch.randperm(n_genes)[:n]

    def _fit(self, image: Tensor, texts: Tensor, values: Tensor) -> Tensor:
        return (image * self._sentence(self.gene(texts, values))).sum(dim=1)

    def _texts(self) -> Tensor:
        """Rows of the genes that sentences hold, standardized."""
        return self.of_genes(self.table[self.taught])

    def _values(self, expression: Tensor) -> Tensor:
        return (expression - self.target_mean) / self.target_std

    def _image(self, features: Tensor) -> Tensor:
        # Around a spot, the middle is the spot; a tile is all of it.
        read = features[:, features.shape[1] // 2] if self.config.image == "neighbors" else features.mean(dim=1)
        return F.normalize(self.image_norm(self.image_head(read)), dim=-1)

    def _sentence(self, pooled: Tensor) -> Tensor:
        return F.normalize(self.gene_norm(self.gene_head(pooled)), dim=-1)

    def _head(self, image: Tensor) -> Tensor:
        if isinstance(self.head, QueryHead):
            return self.head(image, self.gene.text_proj(self.of_genes(self.table)))
        return self.head(image)
