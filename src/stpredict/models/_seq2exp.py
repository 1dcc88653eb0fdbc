"""Seq2Exp: expression of genes from the DNA around them, through a mask of the positions that matter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from stpredict.core._validate import check_choice, check_positive
from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._predictor import HEAD
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.base._shrinking import ShrinkingPredictor
from stpredict.models.nn._batch_norm import BatchNorm1d
from stpredict.models.nn._beta import as_bases, combined, divergence, opened, packed, sample_beta, track_betas
from stpredict.models.nn._caduceus import Caduceus
from stpredict.models.nn._standardize import Standardize

INPUTS = ("sequence", "signals", "gene_features")
#: Length of the promoter in base pairs, and its largest share of the window.
_PROMOTER, _SHARE = 2000, 4
_THRESHOLD = 0.5
_BASES = 4
_LOOKED_AT = 16  # batches that the scale of the states is taken from
_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class Seq2ExpConfig:
    """Hyperparameters of `seq2exp`.

    Attributes
    ----------
    inputs
        What is read: `"sequence"`, `"signals"`, and what is known of genes besides, `"gene_features"`. One of the first
        two is needed; either of them alone is an ablation.
    mask
        `"soft"`: each position counts by its share between 0 and 1. `"hard"`: it counts or it does not.
    generator_reads
        What the mask is made from besides the signals' own part in it: `"sequence"`, or `"all"`, sequence and signals.
    shared
        Whether one network makes the mask and reads through it.
    packed
        Whether the positions that count are moved together before they are read, so that others cost nothing; for a
        hard mask. Closed positions then get no gradient.
    gated
        Whether the mask also gates the recurrences of the encoder, so that a closed position leaves the state as it was. The
        product of sequence and mask alone, as published, loses its scale in the norm that follows: a position of share
        .1 is then read as well as one of share 1.
    dim, depth, d_state, d_conv, expand
        Width, layers, and sizes of the recurrences, see :class:`~stpredict.models.nn.Mamba`.
    promoter
        Base pairs around the start of transcription that always count; 2,000 but at most a quarter of the window when
        `None`.
    center
        Base pairs in the middle whose states are averaged, each by its share.
    positions
        Positions that have a learned vector, the middle one at the start of transcription; 0 for none.
    beta_min
        What is added to all parameters of Beta distributions. With 1 or more these have a single peak.
    prior_scale
        How sure the signals are of what they say; at the published 10 a mask that departs from them takes thousands of steps.
    z_scale
        How sure the mask is of what sequence and signals say together.
    track_weights
        Weight of each signal against the others; all alike when `None`.
    track_levels
        Level of each signal, less `beta_min`, at which it says neither open nor closed; its training mean and one standard deviation
        more when `None`.
    learn_prior
        Whether these weights and levels are trained.
    prior_mean, marginal_scale
        Mean of the mask that is expected of a position, and how firmly.
    kl
        Weight of the divergence from that expectation in the loss. At the published .01 the mask closes everywhere before
        a short training has found what it is needed for.
    standardize
        Whether signals are in units of their training spread, and the target is in units of its mean and spread.
    shrink
        Pull predictions towards the training mean, output by output, by as much as held-out genes say.
    chunk
        Positions of all windows of a step that go through a recurrence at once: it bounds memory, and changes no result.
    """

    inputs: tuple[str, ...] = ("sequence", "signals")
    mask: Literal["soft", "hard"] = "soft"
    generator_reads: Literal["sequence", "all"] = "sequence"
    shared: bool = False
    packed: bool = False
    gated: bool = True
    dim: int = 32
    depth: int = 2
    d_state: int = 8
    d_conv: int = 4
    expand: int = 2
    promoter: int | None = None
    center: int = 2000
    positions: int = 0
    beta_min: float = 1.0
    prior_scale: float = 1.0
    z_scale: float = 1.0
    track_weights: tuple[float, ...] | None = None
    track_levels: tuple[float, ...] | None = None
    learn_prior: bool = False
    prior_mean: float = 0.1
    marginal_scale: float = 10.0
    kl: float = 0.001
    standardize: bool = True
    shrink: bool = True
    chunk: int = 4096

    def __post_init__(self) -> None:
        """Check what fits together."""
        check_choice(self.mask, ("soft", "hard"), "mask")
        check_choice(self.generator_reads, ("sequence", "all"), "generator_reads")
        for name in (
            "dim",
            "depth",
            "d_state",
            "d_conv",
            "expand",
            "prior_scale",
            "z_scale",
            "marginal_scale",
            "chunk",
        ):
            check_positive(getattr(self, name), name)
        for each in self.inputs:
            check_choice(each, INPUTS, "each of inputs")
        if not {"sequence", "signals"} & set(self.inputs):
            raise ValueError(f"expected 'sequence' or 'signals' among inputs; found {self.inputs!r}")
        if self.packed and self.mask != "hard":
            raise ValueError("expected mask='hard' for packed=True; found 'soft', of which every position counts")
        if not 0 < self.prior_mean < 1:
            raise ValueError(f"expected prior_mean between 0 and 1; found {self.prior_mean!r}")
        if min(self.beta_min, self.kl, self.positions) < 0:
            raise ValueError("expected beta_min, kl and positions of at least 0; found one below")


#: Sizes and constants of the published networks; the reference lists its tracks as H3K27ac, DNase, Hi-C.
_SOFT: dict[str, Any] = {
    "inputs": INPUTS, "dim": 128, "depth": 4, "d_state": 16, "promoter": _PROMOTER, "track_weights": (2.0, 2.0, 1.0),
    "track_levels": (1.5, 0.2, 1.0), "standardize": False, "shrink": False,
    "gated": False, "prior_scale": 10.0, "kl": 0.01,
}  # fmt: skip
_HARD: dict[str, Any] = _SOFT | {
    "mask": "hard", "generator_reads": "all", "shared": True, "packed": True, "positions": 200_000, "beta_min": 0.0,
    "prior_scale": 1.0, "prior_mean": 0.45, "marginal_scale": 0.1,
}  # fmt: skip
_TRAINED: dict[str, Any] = {
    "learning_rate": 5e-4, "schedule": "cosine", "final_learning_rate": 1e-4, "batch_size": 8,
    "max_epochs": 25,
}  # fmt: skip
_WIDTHS = {"signals": 3, "gene_features": 9}


@register(
    "seq2exp",
    config=Seq2ExpConfig,
    description="DNA and signals around a gene, read in both directions through a mask of the positions that matter",
    paper="su2025seq2exp",
    license_of_reference="GPL-3.0",
)
class Seq2Exp(ShrinkingPredictor):
    """A generator says of every position how likely it counts; an encoder reads the sequence through that mask.

    Sequence and signals each have a Beta distribution of the share of a position; their product is that of the mask. In
    training the mask is drawn from it, otherwise it is its mean. Positions that are left out never count, the promoter
    always does, also where some of it is left out. `extras["mask"]` (n, length) of a prediction is the mask.
    """

    needs = frozenset({"sequence", "signals", "sequence_mask"})
    per_prediction: ClassVar[int] = 16
    weighs_genes = False
    training_defaults = {"batch_size": 16, "learning_rate": 2e-3, "max_epochs": 50, "weight_decay": 1e-6}
    paper = Preset(_SOFT, _TRAINED, 1, _WIDTHS)
    presets = {"hard": Preset(_HARD, _TRAINED, 1, _WIDTHS)}
    small = {"inputs": INPUTS, "dim": 8, "depth": 1, "d_state": 4, "expand": 1, "learn_prior": True}
    own_tensors = (*HEAD, "pToExpr.4.", "shrinkage.", "signal_scale", "signal_betas", "prior_weights", "of_states.")

    config: Seq2ExpConfig
    signal_scale: Tensor

    def __init__(self, config: Seq2ExpConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        dim = config.dim
        sizes = (dim, config.depth, config.d_state, config.d_conv, config.expand, config.chunk)
        self.seq_input_layer = nn.Linear(_BASES, dim) if "sequence" in config.inputs else None
        self.signal_input_layer = None
        if "signals" in config.inputs:
            k = shape.width("signals")
            self.signal_input_layer = nn.Linear(k, dim)
            self.register_buffer("signal_scale", torch.ones(k))
            self.prior_weights = nn.Parameter(torch.zeros(k), requires_grad=config.learn_prior)
            self.signal_betas = nn.Parameter(torch.ones(k), requires_grad=config.learn_prior)
            self._take_tracks()
        self.generator = Caduceus(*sizes)
        self.mask_output = nn.Linear(dim, 2)
        nn.init.zeros_(self.mask_output.weight)  # at the start the sequence says the same of every position
        self.encoder = self.generator if config.shared else Caduceus(*sizes)
        self.pos_emb = nn.Parameter(torch.zeros(1, config.positions, dim)) if config.positions else None
        self.of_states = BatchNorm1d(dim, eps=_LEAST_VARIANCE, affine=False) if config.standardize else None
        known = 0
        self.of_genes = None
        if "gene_features" in config.inputs:
            known = shape.width("gene_features")
            self.of_genes = Standardize(known, of="gene_features") if config.standardize else nn.Identity()
        self.pToExpr = nn.Sequential(
            nn.Linear(dim + known, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, shape.n_outputs)
        )

    @classmethod
    def reads(cls, config: Seq2ExpConfig) -> frozenset[str]:
        """What is among `inputs`, and which positions are left out."""
        return frozenset(config.inputs) | {"sequence_mask"}

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set, of the signals their level and spread."""
        config = self.config
        if config.standardize:
            super().prepare(summary)
        if self.signal_input_layer is None:
            return
        k = len(self.signal_scale)
        for name in ("track_weights", "track_levels"):
            given = getattr(config, name)
            if given is not None and len(given) != k:
                raise ValueError(f"expected one of {name} for each of {k} signals; found {len(given)}")
        mean, std = summary.moments["signals"]
        if config.standardize:
            self.signal_scale.copy_(torch.where(std > 0, std, torch.inf))
        if config.track_levels is None:
            with torch.no_grad():
                self.signal_betas.copy_((mean + std) / self.signal_scale)

    def _take_tracks(self) -> None:
        """Weights and levels of the signals, where they are given."""
        k = len(self.signal_scale)
        for name, values in (("prior_weights", self.config.track_weights), ("signal_betas", self.config.track_levels)):
            if values is not None and len(values) == k:
                given = torch.tensor(values)
                with torch.no_grad():
                    getattr(self, name).copy_((given / given.sum()).log() if name == "prior_weights" else given)

    def embedded(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the generator and the encoder read (n, length, dim) each, and the signals (n, length, n_tracks)."""
        parts, signals = [], None
        if self.seq_input_layer is not None:
            parts.append(as_bases(batch["sequence"], self.seq_input_layer.weight, self.seq_input_layer.bias))
        if self.signal_input_layer is not None:
            signals = batch["signals"].float() / self.signal_scale
            parts.append(self.signal_input_layer(signals))
        both = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return parts[0] if self.config.generator_reads == "sequence" else both, self._placed(both), signals

    def _placed(self, sequence: Tensor) -> Tensor:
        """The sequence with the vectors of the positions."""
        if self.pos_emb is None:
            return sequence
        length, known = sequence.shape[1], self.config.positions
        if length > known:
            raise ValueError(f"expected windows of at most positions={known}; found {length}")
        first = known // 2 - length // 2
        return sequence + self.pos_emb[:, first : first + length]

    def _distribution(self, seen: Tensor, signals: Tensor | None) -> tuple[Tensor, Tensor]:
        config = self.config
        own = F.softplus(self.mask_output(self.generator(seen)).float()) + config.beta_min
        if signals is None:
            return combined(own, None, own.new_ones(0), config.z_scale)
        tracks = track_betas(signals, self.signal_betas, config.beta_min, config.prior_scale)
        return combined(own, tracks, self.prior_weights.softmax(dim=0), config.z_scale)

    def promoter(self, length: int) -> slice:
        """Positions of a window around the start of transcription that always count."""
        given = self.config.promoter
        return middle(length, min(_PROMOTER, length // _SHARE) if given is None else given)

    def masked(self, alpha: Tensor, beta: Tensor, rules: Tensor) -> Tensor:
        """The mask (n, length): drawn in training, otherwise expected; `rules` (n, length) of the sequence come first."""
        share = sample_beta(alpha, beta) if self.training else alpha / (alpha + beta)
        if self.config.mask == "hard":
            share = opened(share, _THRESHOLD)
        mask = torch.where(rules < 0, 0.0, torch.where(rules > 0, 1.0, share))
        mask[:, self.promoter(mask.shape[1])] = 1.0
        return mask

    def remember(self, batches: Iterable[Batch]) -> None:
        """Take mean and spread of the states that are read of some training rows, as the network is drawn.

        A mean over thousands of positions hardly differs between genes, and training would start on a plateau.
        """
        if self.of_states is None:
            return
        with torch.no_grad():
            states = torch.cat([self.state(batch)[0] for batch in islice(batches, _LOOKED_AT)])
            known = {"running_mean": states.mean(dim=0), "running_var": states.var(dim=0, correction=0)}
            self.of_states.load_state_dict(known, strict=False)

    def state(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """State (n, dim) that is read of each window; mask and parameters of its distribution (n, length)."""
        seen, sequence, signals = self.embedded(batch)
        alpha, beta = self._distribution(seen, signals)
        mask = self.masked(alpha, beta, batch["sequence_mask"])
        return self.read(sequence, mask), {"mask": mask, "alpha": alpha, "beta": beta}

    def encode(self, batch: Batch) -> Tensor:
        """What is read of the window of each gene (n, dim), by which other networks may know it."""
        return self._leveled(self.state(batch)[0])

    def _leveled(self, state: Tensor) -> Tensor:
        return state if self.of_states is None else self.of_states(state)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch; `extras` hold the mask and the parameters of its distribution."""
        state, extras = self.state(batch)
        hidden = self._leveled(state)
        if self.of_genes is not None:
            hidden = torch.cat([hidden, self.of_genes(batch["gene_features"])], dim=1)
        mean = self.target_mean + self.target_std * self.pToExpr(hidden)
        return Prediction(mean, extras=extras)

    def read(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """Mean state (n, dim) of the middle of a sequence (n, length, dim) that is read through a mask (n, length)."""
        weight = torch.zeros_like(mask)
        at = middle(mask.shape[1], self.config.center)
        weight[:, at] = mask[:, at]
        seen, kept = sequence * mask.unsqueeze(-1), mask if self.config.gated else None
        if self.config.packed:
            seen, kept, place = packed(seen, mask.detach() > 0)
            weight = weight.gather(1, place) * kept
        return torch.einsum("nl,nld->nd", weight / weight.sum(dim=1, keepdim=True), self.encoder(seen, kept))

    def truth(self, batch: Batch) -> Tensor | None:
        """Expression, or values on the scale of the outputs."""
        return batch.outputs()

    def predict(self, batch: Batch, *, n_samples: int = 0, generator: Generator | None = None) -> Prediction:
        """Predict a batch, as sure as held-out genes allow."""
        return self.shrunk(self(batch))

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Loss of the outputs, and divergence of the mask from what is expected of it where it is free."""
        outputs = batch.outputs()
        if outputs is None:
            supervised = super().loss(prediction, batch)["total"]
        else:
            error = (prediction.mean - outputs) / self.target_std
            supervised = F.smooth_l1_loss(error, torch.zeros_like(error))
        config = self.config
        free = batch["sequence_mask"] == 0
        free[:, self.promoter(free.shape[1])] = False
        apart = divergence(
            prediction.extras["alpha"], prediction.extras["beta"], config.prior_mean, config.marginal_scale
        )
        apart = (apart * free).sum() / free.sum().clamp_min(1)
        return {"total": supervised + config.kl * apart, "supervised": supervised, "divergence": apart}


def middle(length: int, size: int) -> slice:
    """So many positions of a window, at least one and at most all, around the place behind its half."""
    size = max(1, min(size, length))
    first = (length - size) // 2 if size < length else 0
    return slice(first, first + size)
