"""GTA: windows of DNA, told in the tokens of a frozen language model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.core._validate import check_choice
from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._attention import attend, check_heads
from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._language_model import RANDOM, LanguageModel
from stpredict.models.nn._standardize import Standardize


@dataclass(frozen=True)
class GTAConfig:
    """Hyperparameters of `gta`.

    Attributes
    ----------
    inputs
        `"features"`: windows that another network of DNA has read, `obsm["sequence_features"]`; `"sequence"`: the bases
        themselves, through a convolutional encoder that is trained with the rest.
    prompt
        `"own"`: tokens of a text about each gene come before the windows, where `obsm["prompt_ids"]` has any; `"shuffled"`: those
        of another gene, a control; `"none"`: without.
    language_model
        Name of the frozen model: `"random"`, or one of :func:`stpredict.models.register_language_model`.
    lm_width, lm_depth, lm_heads, vocabulary, lm_seed
        Sizes, and the seed, of the random one.
    n_prototypes
        Number of tokens that the vocabulary is summed up in.
    prototype_rank
        Rank of the map from the vocabulary to the prototypes; full when `None`.
    d_align, heads
        Width and heads of the attention of windows to prototypes.
    d_feature, n_blocks, n_windows
        Width of the encoder of bases, its blocks (each pools four places into one), and how many windows it gives at most.
    ranking
        Weight of a loss of the order of pairs of genes.
    dropout
        Dropout before the head.
    """

    inputs: Literal["features", "sequence"] = "features"
    prompt: Literal["own", "shuffled", "none"] = "own"
    language_model: str = RANDOM
    lm_width: int = 256
    lm_depth: int = 4
    lm_heads: int = 4
    vocabulary: int = 4096
    lm_seed: int = 0
    n_prototypes: int = 256
    prototype_rank: int | None = None
    d_align: int = 512
    heads: int = 8
    d_feature: int = 256
    n_blocks: int = 4
    n_windows: int = 192
    ranking: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self.inputs, ("features", "sequence"), "inputs")
        check_choice(self.prompt, ("own", "shuffled", "none"), "prompt")
        check_heads(self.d_align, self.heads)
        if self.ranking < 0:
            raise ValueError(f"expected a ranking weight of at least 0; found {self.ranking}")


@register(
    "gta",
    config=GTAConfig,
    paper="honig2024",
    description="Windows of DNA aligned with tokens of a frozen language model; rows are genes",
)
class GTA(Predictor):
    """Windows attend to prototypes of a vocabulary, and a frozen language model reads them, behind a prompt, to a state.

    The states of the prototypes, the attention and the head are trained; the language model is not.
    """

    training_defaults = {
        "learning_rate": 1e-4, "optimizer": "adamw", "schedule": "cosine", "batch_size": 32, "max_epochs": 100, "patience": 20,
        "refit": True,
    }  # fmt: skip
    small = {
        "lm_width": 32, "lm_depth": 1, "lm_heads": 4, "vocabulary": 64, "n_prototypes": 16, "d_align": 32, "heads": 4,
        "d_feature": 16,
    }  # fmt: skip
    per_prediction = 64

    def __init__(self, config: GTAConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.feature, width = None, config.d_feature
        if config.inputs == "sequence":
            self.feature = BaseEncoder(config.d_feature, config.n_blocks, config.n_windows)
        else:
            width = shape.width("sequence_features")
            self.standardize = Standardize(width, of="sequence_features")
        self.lm = LanguageModel(
            config.language_model, width=config.lm_width, depth=config.lm_depth, heads=config.lm_heads,
            vocabulary=config.vocabulary, seed=config.lm_seed,
        )  # fmt: skip
        d, wide = self.lm.width, config.d_align
        self.proj_in = nn.Linear(width, wide, bias=False)
        self.prototype = Prototypes(self.lm.embedding.shape[0], config.n_prototypes, config.prototype_rank)
        self.align = Alignment(wide, d, config.heads)
        self.sep, self.readout = (nn.Parameter(torch.randn(1, d) / math.sqrt(d)) for _ in range(2))
        self.drop = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(d)
        self.head = RegressionHead(d, shape.n_outputs)

    @classmethod
    def reads(cls, config: GTAConfig) -> frozenset[str]:
        """Windows or bases, and the prompt."""
        first = "sequence" if config.inputs == "sequence" else "sequence_features"
        return frozenset({first} | ({"prompt_ids"} if config.prompt != "none" else set()))

    def windows(self, batch: Batch) -> Tensor:
        """Features (n, n_windows, d) of windows along the sequence, before they are aligned."""
        if self.feature is not None:
            return self.feature(batch["sequence"])
        return self.standardize(batch["sequence_features"])

    def read(self, windows: Tensor, prompt_ids: Tensor | None) -> Tensor:
        """State (n, width) of the readout token behind the prompt and the aligned windows."""
        hidden = self.proj_in(windows)
        hidden = hidden + positions(hidden.shape[1], hidden.shape[2], hidden)
        tokens = self.align(hidden, self.prototype(self.lm.embedding))
        n = len(tokens)
        parts, masks = [], []
        if prompt_ids is not None and prompt_ids.shape[1]:
            if int(prompt_ids.max()) >= len(self.lm.embedding):
                raise ValueError(
                    f"expected tokens of the vocabulary of {len(self.lm.embedding)} in obsm['prompt_ids']; found "
                    f"{int(prompt_ids.max())}; make them by the tokenizer of the language model"
                )
            known = prompt_ids >= 0
            parts.append(self.lm.embedding[prompt_ids.clamp_min(0)] * known[..., None])
            masks.append(known)
        parts += [self.sep.expand(n, 1, -1), tokens, self.readout.expand(n, 1, -1)]
        masks.append(torch.ones(n, tokens.shape[1] + 2, dtype=torch.bool, device=tokens.device))
        states = self.lm(torch.cat(parts, dim=1), torch.cat(masks, dim=1))
        return self.norm(states[:, -1])

    def encode(self, batch: Batch) -> Tensor:
        """State (n, width) of the language model for each gene: what :func:`stpredict.tl.gene_descriptors` returns."""
        return self.read(self.windows(batch), batch["prompt_ids"] if "prompt_ids" in self.needs else None)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        found: Prediction = self.head(self.drop(self.encode(batch)), self.target_mean, self.target_std)
        return found

    def attribute(self, batch: Batch, output: int = 0) -> Tensor:
        """How much each window (n, n_windows) has a part in the prediction of one output: gradient times features."""
        with torch.enable_grad():
            windows = self.windows(batch).detach().requires_grad_()
            state = self.read(windows, batch["prompt_ids"] if "prompt_ids" in self.needs else None)
            found = self.head(state, self.target_mean, self.target_std).mean[:, output]
            (gradient,) = torch.autograd.grad(found.sum(), windows)
        return (gradient * windows).sum(dim=2).abs().detach()

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Smooth absolute error in units of the training spread, where outputs are plain values; else that of the target."""
        found = super().loss(prediction, batch)
        linear = batch.kind is None or (batch.kind.linear and batch.kind.kind in ("values", "expression"))
        if not linear or batch.weight is not None or batch.target is None:
            return found
        truth, mean = batch.target / self.target_std, prediction.mean / self.target_std
        total = F.smooth_l1_loss(mean, truth)
        if self.config.ranking == 0 or len(batch) < 2:
            return {"total": total}
        apart, sign = mean[:, None] - mean[None], (truth[:, None] - truth[None]).sign()
        order = (F.softplus(-apart * sign) * sign.abs()).sum() / sign.abs().sum().clamp_min(1)
        return {"regression": total, "ranking": order, "total": total + self.config.ranking * order}


class Prototypes(nn.Module):
    """Weighted sums (n, d) of the embeddings of a vocabulary (v, d), of which the weights are trained."""

    def __init__(self, vocabulary: int, n: int, rank: int | None) -> None:
        super().__init__()
        full = rank is None or rank >= min(vocabulary, n)
        scale = 1 / math.sqrt(vocabulary)
        self.weight = nn.Parameter(torch.randn(n, vocabulary if full else rank or 1) * (scale if full else 1.0))
        self.low = None if full else nn.Parameter(torch.randn(rank or 1, vocabulary) * scale)

    def forward(self, embedding: Tensor) -> Tensor:
        """Prototypes (n, d)."""
        return self.weight @ (embedding if self.low is None else self.low @ embedding)


class Alignment(nn.Module):
    """Attention of windows (n, t, wide) to prototypes (k, d): tokens (n, t, d) that are mixtures of these."""

    def __init__(self, wide: int, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(wide, wide, bias=False)
        self.to_k, self.to_v = (nn.Linear(d, wide, bias=False) for _ in range(2))
        self.to_out = nn.Linear(wide, d, bias=False)
        # Tokens that all begin as the mean of the prototypes would tell no window from another.
        for layer, gain in ((self.to_q, 1.5), (self.to_k, 1.5), (self.to_v, 1.0), (self.to_out, 1.0)):
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))

    def forward(self, windows: Tensor, prototypes: Tensor) -> Tensor:
        """Tokens (n, t, d)."""
        key, value = (layer(prototypes).expand(len(windows), -1, -1) for layer in (self.to_k, self.to_v))
        return self.to_out(attend(self.to_q(windows), key, value, self.heads))


class BaseEncoder(nn.Module):
    """Convolutions over bases (n, length) to windows (n, n_windows, d)."""

    def __init__(self, d: int, n_blocks: int, n_windows: int) -> None:
        super().__init__()
        self.n_windows = n_windows
        widths = [64 if d >= 64 else d, *[d] * n_blocks]
        self.conv0 = nn.Conv1d(4, widths[0], 15, padding=7)
        self.blocks = nn.ModuleList(nn.Conv1d(a, b, 5, padding=2) for a, b in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, sequence: Tensor) -> Tensor:
        """Windows; what is not known of a base is 0 in all four channels."""
        bases = torch.arange(4, device=sequence.device)[:, None]
        hidden = self.conv0((sequence[:, None] == bases).to(self.conv0.weight.dtype))
        for block in self.blocks:
            hidden = F.gelu(block(hidden))
            hidden = F.max_pool1d(hidden, min(4, hidden.shape[2]))
        if hidden.shape[2] > self.n_windows:
            hidden = F.adaptive_avg_pool1d(hidden, self.n_windows)
        return hidden.transpose(1, 2)


def positions(length: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines (length, width) of the place of a window, which attention by itself does not know."""
    place = torch.arange(length, device=like.device, dtype=like.dtype)[:, None]
    half = (width + 1) // 2
    rate = torch.exp(
        torch.arange(half, device=like.device, dtype=like.dtype) * (-math.log(10_000.0) / max(half - 1, 1))
    )
    return torch.cat([(place * rate).sin(), (place * rate).cos()], dim=1)[:, :width]
