"""Ridge regression on principal components of image features: the baseline every network has to beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stpredict.core._apart import stripe_folds
from stpredict.core._constant import constant
from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._registry import register
from stpredict.models.base._row_blocks import RowBlocks
from stpredict.models.base._shape import Shape
from stpredict.models.nn._above_lowest import AboveLowest
from stpredict.models.nn._count_ridge import CountBlock, fit_counts
from stpredict.models.nn._normal_equations import Moments, NormalEquations, cells_of

_MAX_GROUPS = 10
_BYTES = 2**27  # for the sums of products with targets
_COUNT_ROWS = 256  # of a block of counts, of which there are many copies


@dataclass(frozen=True)
class RidgeConfig:
    """Hyperparameters of `ridge`.

    Attributes
    ----------
    n_components
        Principal components of the standardized features that are kept (fewer when there are fewer).
    alphas
        Penalties to choose from, in units of the number of training observations. The largest leave next to nothing of the
        slopes, whatever the number of features: genes without any pattern are to be predicted by their mean.
    alpha
        A fixed penalty instead of the inner cross-validation.
    center
        `"global"`: one intercept. `"section"`: features and targets are centered within each training section, so that
        differences between sections (staining, depth) do not enter the weights; predictions are centered on the
        training mean. Counts are relative to their section in either case.
    rank
        Rank of the map from features to genes; `None` for full rank.
    kinds
        Widths of the kinds of features, in their order. Every kind then has the same variance in all, however many
        numbers it is made of, where otherwise every number has. :func:`stpredict.tl.fit` fills in the widths of its slots
        for `"slots"`.
    """

    n_components: int = 256
    alphas: Sequence[float] = (
        *(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        *(100.0, 300.0, 1000.0, 3000.0, 10000.0),
    )
    alpha: float | None = None
    center: Literal["global", "section"] = "global"
    rank: int | None = None
    kinds: Sequence[int] | Literal["slots"] = ()


@register(
    "ridge",
    config=RidgeConfig,
    description="Standardize, principal components, ridge; penalty by inner grouped cross-validation",
)
class Ridge(Predictor):
    """Closed-form ridge regression, all genes and all penalties at once.

    The penalty is chosen by cross-validation inside the training set, grouped by patient (by section where there is
    one patient, by stripes of the section, each behind a buffer, where there is one section), on the squared error after
    centering within each section: the part of the error that a map of the section shows. Slides of a cohort are compared with each
    other, and nothing is centered. The same held-out residuals give the standard deviation of each gene.

    Values with a link are solved for on the scale of the link, as logarithms, log odds or log ratios; the intercept is then
    moved so that the mean over the training set is that of the values. Pearson residuals are solved for as they are, and what
    the line gives is bent upwards where it would leave the range of residuals (`models.nn.AboveLowest`).
    """

    closed_form = True

    feature_mean: Tensor
    weight: Tensor
    residual_std: Tensor
    alpha: Tensor

    def __init__(self, config: RidgeConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.register_buffer("feature_mean", torch.zeros(shape.width("features")))
        self.register_buffer("weight", torch.zeros(shape.width("features"), shape.n_outputs))
        self.register_buffer("residual_std", torch.ones(shape.n_outputs))
        self.register_buffer("alpha", torch.zeros(()))
        self.above_lowest = AboveLowest(shape.n_outputs)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        mean = self.above_lowest(self._line(batch))
        return Prediction(mean, std=self.residual_std.expand_as(mean))

    def _line(self, batch: Batch) -> Tensor:
        return torch.addmm(self.target_mean, batch["features"] - self.feature_mean, self.weight)

    def finish(self, batches: Iterable[Batch]) -> None:
        """Solve for the weights on the whole training set, whose rows are read in blocks."""
        blocks = RowBlocks.of(batches)
        kind = blocks.head.kind
        if kind is not None and kind.kind == "counts":
            self._finish_counts(blocks)
            return
        alphas = [self.config.alpha] if self.config.alpha is not None else list(self.config.alphas)
        error, overall, whole = _all_moments(blocks, alphas, self.config, self.shape)
        if error is not None:
            variance = (overall.target_square / max(overall.n - 1, 1)).clamp_min(1e-12)
            best = int((error / variance).mean(dim=1).argmin())
            residual = (error[best] / overall.n).sqrt()
        else:
            best = len(alphas) // 2
            residual = self.target_std.double()
        turn, values = _components(whole, self.config)
        weight = turn @ _scores(_projected(turn, whole), values, alphas[best], self.config.rank)
        self.feature_mean.copy_(overall.mean)
        self.weight.copy_(weight)
        self.target_mean.copy_(overall.target_mean)
        if kind is not None and not kind.linear:
            linked = kind.shift(torch.cat([self(block).mean for block in blocks]))
            self.target_mean.add_(0 if linked is None else linked)
        line = self.target_mean.double() + (overall.mean - self.feature_mean) @ weight
        spread = (weight * (overall.square @ weight)).sum(dim=0) / overall.n
        self.target_mean.add_(self.above_lowest.shift_of(line, spread, overall.target_mean))
        self.residual_std.copy_(residual.clamp_min(1e-6))
        self.alpha.fill_(alphas[best])

    def _finish_counts(self, blocks: RowBlocks) -> None:
        """Fit log rates by the likelihood of counts; see :func:`stpredict.models.nn._count_ridge.fit_counts`."""
        if self.config.rank is not None:
            raise ValueError(f"expected rank=None for counts; found {self.config.rank}; fit log1p values or residuals")
        head, n_genes = blocks.head, self.shape.n_outputs
        cell, sides = cells_of(inner_folds(head), len(blocks))
        centered = len(head.section.unique()) > 1 or len(head.patient.unique()) == 1
        code = head.section.unique(return_inverse=True)[1] if centered else torch.zeros_like(head.section)
        *_, theta = head.kind.parts(torch.zeros(1, 2 * n_genes, dtype=torch.float64))  # type: ignore[union-attr]

        def parts(genes: slice) -> Iterator[CountBlock]:
            start, width = 0, len(range(n_genes)[genes])
            for block in blocks.of_genes(genes, n_genes):
                assert block.target is not None
                for first in range(0, len(block), _COUNT_ROWS):
                    rows = slice(first, min(first + _COUNT_ROWS, len(block)))
                    counts, depth = block.target[rows, :width].double(), block.target[rows, width:].double()
                    at = slice(start + rows.start, start + rows.stop)
                    yield CountBlock(at, block["features"][rows].double(), counts, depth)
                start += len(block)

        fit = fit_counts(
            parts, theta.to(code.device), cell.to(code.device), sides, code,
            alphas=[self.config.alpha] if self.config.alpha is not None else list(self.config.alphas),
            n_components=self.config.n_components,
        )  # fmt: skip
        self.feature_mean.copy_(fit.feature_mean)
        self.weight.copy_(fit.weight)
        self.target_mean.copy_(fit.offset.log() + fit.log_rate)
        self.residual_std.copy_(self.target_std)
        self.alpha.fill_(fit.alpha)


def inner_folds(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Masks (n,) of what the inner cross-validation trains on and holds out; empty where there is too little for any.

    It holds out patients, or sections of a single patient, at most ten groups of them: more are put together; or stripes of
    one section, each behind a buffer.
    """
    for codes in (batch.patient, batch.section):
        _, groups = codes.unique(return_inverse=True)
        if len(groups) and int(groups.max()) > 0:
            groups = groups % _MAX_GROUPS
            return [(groups != group, groups == group) for group in range(int(groups.max()) + 1)]
    if "positions" not in batch:
        return []
    folds = stripe_folds(batch["positions"].cpu().numpy(), batch.reach_um)
    if not folds:
        return []
    train, held_out = (torch.from_numpy(np.stack(side)).to(batch.section.device) for side in zip(*folds, strict=True))
    return list(zip(train, held_out, strict=True))


def _all_moments(
    blocks: RowBlocks, alphas: Sequence[float], config: RidgeConfig, shape: Shape
) -> tuple[Tensor | None, Moments, Moments]:
    """Go through the rows, once for as many genes as fit into the memory for sums.

    Returns
    -------
    Held-out squared error (n_alphas, n_genes) of the inner folds, `None` without any; sums about the mean of all rows; and
    those about the center of the configuration.
    """
    head = blocks.head
    folds = inner_folds(head)
    cell, sides = cells_of(folds, len(blocks))
    cell = cell.to(head.section.device)
    # Slides of a cohort are one section; a patient's few of them have no pattern to be centered on.
    centered = len(head.section.unique()) > 1 or len(head.patient.unique()) == 1
    per_gene = 8 * (int(cell.max()) + 1) * max(shape.width("features"), 1)
    step = shape.n_outputs if config.rank is not None else max(1, _BYTES // per_gene)
    errors: list[Tensor] = []
    found: list[tuple[Moments, Moments]] = []
    bases: list[tuple[Tensor, Tensor]] = []
    sums = None
    for start in range(0, shape.n_outputs, step):
        sums = _added(blocks, slice(start, start + step), cell, sums)
        error = torch.zeros(len(alphas), sums.n_targets, dtype=torch.float64, device=cell.device)
        for number, (train, held_out) in enumerate(sides):
            inside = sums.moments(train, by_section=config.center == "section")
            outside = sums.moments(held_out, by_section=centered)
            if not centered:
                outside = outside.about(inside.mean, inside.target_mean)
            if number == len(bases):
                bases.append(_components(inside, config))
            error += _held_out_error(bases[number], inside, outside, alphas, config.rank)
        errors.append(error)
        everything = range(sums.n_cells)
        overall = sums.moments(everything)
        found.append((overall, sums.moments(everything, by_section=True) if config.center == "section" else overall))
    overall, whole = (Moments.side_by_side(parts) for parts in zip(*found, strict=True))
    return torch.cat(errors, dim=1) if sides else None, overall, whole


def _added(blocks: RowBlocks, genes: slice, cell: Tensor, known: NormalEquations | None) -> NormalEquations:
    """Sums over all rows, for some of the genes; those of the features are taken over where they are known."""
    sums = None
    for block in blocks:
        measured = block.outputs()
        if measured is None:
            raise ValueError(
                "expected expression or values to solve for; found none, or classes or follow-up; choose another model"
            )
        features, target = block["features"], measured[:, genes]
        if sums is None:  # the first rows tell where the values are, of which only what is apart from there is summed
            center = features.double().mean(dim=0) if known is None else known.center
            sums = NormalEquations(cell, blocks.head.section, center, target.double().mean(dim=0), features=known)
        sums.add(features, target)
    if sums is None:
        raise ValueError("expected rows to learn from; found none")
    return sums


def _components(moments: Moments, config: RidgeConfig) -> tuple[Tensor, Tensor]:
    """Principal components of standardized features: from features to them (d, k), and their variances (k,)."""
    n = moments.n
    scale = (moments.square.diagonal() / n).clamp_min(0).sqrt()
    scale = scale.masked_fill(constant(scale, moments.size), torch.inf) * _evened(config.kinds, scale)
    values, vectors = torch.linalg.eigh(moments.square / n / scale[:, None] / scale)
    keep = min(config.n_components, n - 1, len(values)) if n > 1 else len(values)
    values, vectors = values.flip(0)[:keep].clamp_min(0), vectors.flip(1)[:, :keep]
    return vectors / scale[:, None], values


def _projected(turn: Tensor, moments: Moments) -> Tensor:
    """Covariances (k, n_genes) of the components with the genes."""
    return turn.T @ moments.cross / moments.n


def _scores(projected: Tensor, values: Tensor, alpha: float, rank: int | None) -> Tensor:
    """Weights (k, n_genes) of the components under a penalty."""
    scores = projected / (values[:, None] + alpha)
    if rank is not None and rank < min(scores.shape):
        _, _, right = torch.linalg.svd(values.sqrt()[:, None] * scores, full_matrices=False)
        basis = right[:rank].T
        scores = scores @ basis @ basis.T
    return scores


def _held_out_error(
    basis: tuple[Tensor, Tensor], inside: Moments, outside: Moments, alphas: Sequence[float], rank: int | None
) -> Tensor:
    """Sum of squared errors (n_alphas, n_genes) of rows that are given by their sums about the points of comparison."""
    turn, values = basis
    square, double = turn.T @ outside.square @ turn, 2 * (turn.T @ outside.cross)
    projected = _projected(turn, inside)
    errors = []
    for alpha in alphas:
        scores = _scores(projected, values, alpha, rank)
        errors.append(outside.target_square + torch.addmm(double, square, scores, beta=-1).mul_(scores).sum(dim=0))
    return torch.stack(errors).clamp_min(0)


def _evened(kinds: Sequence[int] | str, scale: Tensor) -> Tensor:
    """What the scale of each feature (d,) is multiplied by, so that all kinds have the same variance; 1 without kinds."""
    widths = [len(scale)] if isinstance(kinds, str) or not kinds else [int(width) for width in kinds]
    if sum(widths) != len(scale) or min(widths) < 1:
        raise ValueError(f"expected widths in `kinds` that sum to {len(scale)} features; found {list(kinds)}")
    share = torch.tensor(widths, dtype=scale.dtype, device=scale.device) * len(widths) / sum(widths)
    return share.sqrt().repeat_interleave(torch.tensor(widths, device=scale.device))
