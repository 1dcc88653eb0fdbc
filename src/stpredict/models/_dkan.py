"""DKAN: what is known of each gene asks the tokens of a spot, and is aligned with the expression in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.core._validate import check_choice, check_positive
from stpredict.models._triplex import Three, Triplex, TriplexConfig
from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._gene_rows import ReadsGeneRows
from stpredict.models.base._predictor import Stage
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._retrieval import in_chunks
from stpredict.models.base._shape import Panel, Shape
from stpredict.models.base._shrinking import ShrinkingPredictor
from stpredict.models.nn._attention import CrossEncoder
from stpredict.models.nn._branches import projection
from stpredict.models.nn._weighted import weighted_mean

_PAIRS = 2**14  # of spots and genes that go through the layers at once
_LEAST = 1e-8  # of a loss that weights are made of


@dataclass(frozen=True)
class DKANConfig(TriplexConfig):
    """Hyperparameters of `dkan`; those of its branches are those of :class:`~stpredict.models.Triplex`.

    Attributes
    ----------
    gene_table
        Table of genes in `varm`, see :func:`stpredict.pp.gene_table`.
    keys
        What a gene attends to. `"tokens"`: the spot's own tile, its 25 neighbors and the spot in its section.
        `"single"`: their fusion alone, as published, so that every gene gets the same answer.
    gene_depth, gene_heads, gene_mlp, gene_dropout
        Layers, heads, width of the feed-forward (times `dim`) and dropout of the attention of genes to the picture, to
        the expression, and among the genes, in this order.
    expression_dropout
        Dropout of the embedding of the expression.
    temperature
        What the cosines of the contrast are divided by.
    n_pairs
        Pairs of a spot and a gene that are contrasted in a step; all of them where there are fewer.
    contrast
        Weight of the contrast against the supervised loss, where both are alike; 0 leaves it out. Weights are inverse to
        the losses, and the contrast falls first: with the published 3 hardly anything is left for the prediction.
    """

    depth: Three = (1, 2, 2)
    heads: Three = (4, 4, 4)
    gene_table: str = "gene_table"
    keys: Literal["tokens", "single"] = "tokens"
    gene_depth: Three = (1, 1, 1)
    gene_heads: Three = (4, 4, 4)
    gene_mlp: Three = (2, 2, 2)
    gene_dropout: tuple[float, float, float] = (0.1, 0.1, 0.1)
    expression_dropout: float = 0.3
    temperature: float = 0.1
    n_pairs: int = 2048
    contrast: float = 0.1

    def __post_init__(self) -> None:
        """Check what fits together."""
        super().__post_init__()
        check_choice(self.keys, ("tokens", "single"), "keys")
        for name in ("temperature", "n_pairs"):
            check_positive(getattr(self, name), name)
        if self.contrast < 0:
            raise ValueError(f"expected contrast of at least 0; found {self.contrast!r}")


class GeneEncoder(CrossEncoder):
    """Attention of genes to the genes of the training panel, which attend to each other.

    Among the panel it is self-attention. A gene that is not of the panel is seen as one more beside it, whichever others
    are asked for with it.
    """

    def forward(self, rows: Tensor, panel: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform the rows (1, g, dim) of genes beside those of the panel (1, n_genes, dim)."""
        own = rows is panel
        for layer in self.layers:
            rows, panel = layer(rows, panel, mask=mask), panel if own else layer(panel, panel, mask=mask)
            panel = rows if own else panel
        return rows


class ExpressionEncoder(nn.Module):
    """A linear map of the expression of all genes, and a residual layer.

    Parameters
    ----------
    n_genes
        Number of genes.
    dim
        Width of the token.
    dropout
        Dropout of the residual layer.
    """

    def __init__(self, n_genes: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Linear(n_genes, dim)
        self.fc = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, expression: Tensor) -> Tensor:
        """Embed (n, n_genes) as (n, dim)."""
        projected = self.projection(expression)
        return self.layer_norm(projected + self.dropout(self.fc(F.gelu(projected))))


#: Sizes of the fusion, the section, the neighbors; of the attention of genes to the picture, to the expression, to genes.
_SIZES: Mapping[str, Any] = {
    "her2st": ((1, 5, 4), (4, 3, 3), (4, 8, 4), (4, 4, 4), (4, 4, 4), (4, 4, 4), (0.4, 0.3, 0.3), 0.1),
    "cscc": ((2, 2, 4), (4, 4, 4), (8, 16, 16), (8, 8, 8), (4, 1, 1), (4, 4, 4), (0.1, 0.1, 0.3), 0.08),
    "stnet": ((3, 3, 4), (4, 4, 4), (16, 8, 8), (8, 8, 8), (4, 2, 4), (4, 4, 4), (0.4, 0.1, 0.3), 0.1),
}
_NAMES = ("depth", "gene_depth", "heads", "gene_heads", "mlp", "gene_mlp", "dropout", "temperature")
#: What the published networks do otherwise than this one does by default.
_AS_PUBLISHED: dict[str, Any] = {
    "target": "patches", "dim": 1024, "keys": "single", "gene_dropout": (0.3, 0.3, 0.3), "detach_teacher": False, "shrink": False, "contrast": 3.0,
    "standardize": False, "stain_jitter": 0.0,
}  # fmt: skip
_WIDTHS = dict.fromkeys(("neighbors", "section_features", "gene_table"), 1024)
_TRAINED: dict[str, Any] = {
    "optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 0.0, "schedule": "step", "max_epochs": 200,
    "batch_size": 128, "patience": 20, "monitor": "correlation", "gradient_clip": 0.0,
}  # fmt: skip


@register(
    "dkan",
    config=DKANConfig,
    description="What is known of genes (a table) asks the tokens of the spot, its neighbors and its section",
    paper="zhang2025",
    license_of_reference="MIT",
)
class DKAN(ReadsGeneRows, Triplex):
    """The branches of TRIPLEX, and genes that ask them: each by its row of a table, so that any gene can be predicted.

    In training the answer of a gene in a spot is told from those of other genes and spots by what the expression of the
    spot answers to the gene. Prediction reads pictures and the table alone.
    """

    published = None
    only_expression = True
    needs = Triplex.needs | {"gene_table"}
    per_prediction = 256
    training_defaults = {"learning_rate": 3e-4, "max_epochs": 100, "batch_size": 64}
    presets = {
        name: Preset(_AS_PUBLISHED | dict(zip(_NAMES, sizes, strict=True)), _TRAINED, 250, _WIDTHS)
        for name, sizes in _SIZES.items()
    }
    small = Triplex.small | {
        "gene_heads": (2, 2, 2), "gene_mlp": (1, 1, 1), "gene_dropout": (0.0, 0.0, 0.0), "expression_dropout": 0.0,
        "n_pairs": 128,
    }  # fmt: skip
    own_tensors = (
        *ShrinkingPredictor.own_tensors, "fc_target.", "fc_neighbor.", "fc_global.", "exp_encoder.projection.", "table", "level",
    )  # fmt: skip

    config: DKANConfig

    def __init__(self, config: DKANConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        dim = config.dim
        self.make_gene_rows(shape)
        self.gene_linear = projection(self.table.shape[1], dim)
        picture, expression, genes = zip(
            config.gene_depth, config.gene_heads, config.gene_mlp, config.gene_dropout, strict=True
        )
        self.text_encoder = GeneEncoder(dim, *genes)
        self.exp_encoder = ExpressionEncoder(shape.n_outputs, dim, config.expression_dropout)
        self.img_fusion_encoder = CrossEncoder(dim, *picture)
        self.exp_fusion_encoder = CrossEncoder(dim, *expression)
        self.fc_final_img = nn.Linear(dim, 1)

    @classmethod
    def reads(cls, config: TriplexConfig) -> frozenset[str]:
        """What TRIPLEX reads, and the table of genes."""
        return super().reads(config) | {"gene_table"}

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set; level and spread of other genes follow from their rows, by a ridge."""
        super().prepare(summary)
        self.take_levels()

    def gene_rows(self, table: Tensor | None = None) -> Tensor:
        """Embeddings (1, g, dim) of genes by the rows of a table (g, d), of the panel without one."""
        panel = self.gene_linear(self.of_genes(self.table)).unsqueeze(0)
        rows = panel if table is None else self.gene_linear(self.of_genes(table)).unsqueeze(0)
        return self.text_encoder(rows, panel)

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """What genes ask, (n, k, dim) with its mask (n, k), and the predictions of the branches."""
        mask = batch["neighbor_mask"]
        target, spot = self.target_tokens(batch), self.section_tokens(batch)
        neighbors = self.neighbor_encoder(self.neighbor_tokens(batch), mask)
        found = self.read_out(target, neighbors, mask, spot)
        branches = {"image": found.mean, **found.extras["branches"]}
        if self.config.keys == "single":
            return found.extras["fused"].unsqueeze(1), None, branches
        own, one = mask.new_ones(target.shape[:2]), mask.new_ones(len(mask), 1)
        return torch.cat([target, neighbors, spot.unsqueeze(1)], dim=1), torch.cat([own, mask, one], dim=1), branches

    def answers(self, rows: Tensor, keys: Tensor, mask: Tensor | None, read: nn.Module) -> Tensor:
        """What the tokens of spots (n, k, dim) answer to genes (1, g, dim), as a layer reads each: (n, g, …)."""

        def some(spots: Tensor) -> Tensor:
            asked = rows.expand(len(spots), -1, -1)
            return read(self.img_fusion_encoder(asked, keys[spots], None if mask is None else mask[spots]))

        index = torch.arange(len(keys), device=keys.device)
        return in_chunks(some, index, max(1, _PAIRS // rows.shape[1]), recompute=torch.is_grad_enabled())

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Tokens of the spots, which genes ask."""
        return self.tokens(batch)[:2]

    def decode(self, hidden: tuple[Tensor, Tensor | None], genes: Panel) -> Prediction:
        """Predict genes by their rows, whether the network was trained on them or not."""
        values = self.answers(self.gene_rows(self.rows_of(genes)), *hidden, self.fc_final_img).squeeze(2)
        return self.in_units(values, genes)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch; `extras` hold the predictions of the branches, and in training what was answered to genes."""
        keys, mask, branches = self.tokens(batch)
        rows = self.gene_rows()
        extras: dict[str, Any] = {"branches": branches}
        if self.training:
            extras |= {"rows": rows, "answers": self.answers(rows, keys, mask, nn.Identity())}
            values = self.fc_final_img(extras["answers"])
        else:
            values = self.answers(rows, keys, mask, self.fc_final_img)
        return Prediction(self.clamped(self.target_mean + self.target_std * values.squeeze(2)), extras=extras)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Supervised loss and contrast, weighted by their size; at validation the loss of what is predicted."""
        prediction = self(batch)
        parts = self.loss(prediction, batch)
        if not self.training:
            return {"total": parts["fusion"]}
        supervised = parts.pop("total")
        if not self.config.contrast:
            return {"total": supervised, **parts}
        image, expression, pair_weight = self.aligned(prediction.extras["answers"], prediction.extras["rows"], batch)
        contrast = contrast_loss(image, expression, self.config.temperature, pair_weight)
        weight = adaptive_weights(supervised, contrast, self.config.contrast)
        total = weight[0] * supervised + weight[1] * contrast
        return {"total": total, "supervised": supervised, "contrast": contrast, **parts}

    def aligned(self, answers: Tensor, rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the picture (n, g, dim) and the expression answer in some pairs of a spot and a gene, (m, dim) each.

        The third is the weight (m,) of each pair, that of its gene, where genes have one.
        """
        expression = batch.outputs()
        if expression is None:
            raise ValueError(
                f"expected expression to train on; found none; {type(self).__name__} predicts nothing else"
            )
        n, n_genes = answers.shape[:2]
        pairs = torch.randperm(n * n_genes, device=answers.device)[: self.config.n_pairs]
        spot, gene = pairs // n_genes, pairs % n_genes
        tokens = self.exp_encoder((expression - self.target_mean) / self.target_std)
        # There is one key, so that genes of a spot do not meet: only those that are drawn are computed.
        expressed = self.exp_fusion_encoder(rows[0, gene].unsqueeze(1), tokens[spot].unsqueeze(1)).squeeze(1)
        return answers[spot, gene], expressed, None if batch.weight is None else batch.weight[gene]

    def clamped(self, mean: Tensor) -> Tensor:
        """Values that are not negative, where the configuration says so."""
        return mean.clamp_min(0) if self.config.clamp else mean


def contrast_loss(image: Tensor, expression: Tensor, temperature: float, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of each row of one (m, d) finding its own among the rows of the other, by cosine; weighted (m,)."""
    logits = F.normalize(image, dim=1) @ F.normalize(expression, dim=1).T / temperature
    own = torch.arange(len(logits), device=logits.device)
    if weight is None:
        return F.cross_entropy(logits, own)
    return weighted_mean(F.cross_entropy(logits, own, reduction="none")[None], weight)


def adaptive_weights(supervised: Tensor, contrast: Tensor, factor: float) -> Tensor:
    """Weights (2,) of two losses, which sum to 1: inverse to their size, the second times a factor; without gradients."""
    inverse = 1 / torch.stack([supervised.detach(), contrast.detach()]).clamp_min(_LEAST)
    share = inverse * inverse.new_tensor([1.0, factor])
    return share / share.sum()
