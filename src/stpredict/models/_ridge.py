"""Ridge regression on principal components of image features: the baseline every network has to beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from stpredict.models.base._shape import Shape
from stpredict.models.nn._above_lowest import AboveLowest
from stpredict.models.nn._count_ridge import fit_counts

_MAX_GROUPS = 10


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
        """Solve for the weights on the whole training set."""
        (batch,) = batches
        if batch.measured("counts") is not None:
            self._finish_counts(batch)
            return
        measured = batch.outputs()
        if measured is None:
            raise ValueError(
                "expected expression or values to solve for; found none, or classes or follow-up; choose another model"
            )
        features, target = batch["features"].double(), measured.double()
        section = batch.section
        alphas = [self.config.alpha] if self.config.alpha is not None else list(self.config.alphas)
        folds = inner_folds(batch)
        error = torch.zeros(len(alphas), self.n_outputs, dtype=torch.float64)
        # Slides of a cohort are one section; a patient's few of them have no pattern to be centered on.
        centered = len(section.unique()) > 1 or len(batch.patient.unique()) == 1
        if folds:
            for train, held_out in folds:
                fit = _solve(features[train], target[train], section[train], alphas, self.config)
                error += _held_out_error(fit, features[held_out], target[held_out], section[held_out], centered)
            best = int((error / target.var(dim=0).clamp_min(1e-12)).mean(dim=1).argmin())
            residual = (error[best] / len(features)).sqrt()
        else:
            best = len(alphas) // 2
            residual = self.target_std.double()
        mean, weight, shift = _solve(features, target, section, [alphas[best]], self.config)
        self.feature_mean.copy_(mean)
        self.weight.copy_(weight[0])
        self.target_mean.copy_(shift)
        if batch.kind is not None and (linked := batch.kind.shift(self(batch).mean)) is not None:
            self.target_mean.add_(linked)
        self.target_mean.add_(self.above_lowest.shift(self._line(batch), target.mean(dim=0).float()))
        self.residual_std.copy_(residual.clamp_min(1e-6))
        self.alpha.fill_(alphas[best])

    def _finish_counts(self, batch: Batch) -> None:
        """Fit log rates by the likelihood of counts; see :func:`stpredict.models.nn._count_ridge.fit_counts`."""
        if self.config.rank is not None:
            raise ValueError(f"expected rank=None for counts; found {self.config.rank}; fit log1p values or residuals")
        assert batch.target is not None
        assert batch.kind is not None
        counts, depth, theta = batch.kind.parts(batch.target.double())  # type: ignore[attr-defined]
        centered = len(batch.section.unique()) > 1 or len(batch.patient.unique()) == 1

        def level(values: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
            code = batch.section[rows] if centered else torch.zeros_like(batch.section[rows])
            return values - section_mean(weight * values, code) / section_mean(weight, code).clamp_min(1e-12)

        overall = counts.sum(dim=0).clamp_min(0.5) / depth.sum(dim=0).clamp_min(1)
        fit = fit_counts(
            batch["features"].double(), counts, depth, theta, overall, inner_folds(batch), level,
            alphas=[self.config.alpha] if self.config.alpha is not None else list(self.config.alphas),
            n_components=self.config.n_components,
        )  # fmt: skip
        self.feature_mean.copy_(fit.feature_mean)
        self.weight.copy_(fit.weight)
        self.target_mean.copy_(overall.log() + fit.log_rate)
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


def _center(values: Tensor, section: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """Subtract the mean of all rows, or of each section; return the centered rows and the overall mean."""
    mean = values.mean(dim=0)
    if how == "global":
        return values - mean, mean
    return values - section_mean(values, section), mean


def section_mean(values: Tensor, section: Tensor) -> Tensor:
    """Mean of each row's section, one row per row."""
    _, code, size = section.unique(return_inverse=True, return_counts=True)
    total = torch.zeros(len(size), values.shape[1], dtype=values.dtype, device=values.device).index_add_(
        0, code, values
    )
    return (total / size[:, None])[code]


def _solve(
    features: Tensor, target: Tensor, section: Tensor, alphas: Sequence[float], config: RidgeConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Feature means (d,), weights (n_alphas, d, n_genes) on raw features, and target means (n_genes,)."""
    centered, feature_mean = _center(features, section, config.center)
    outcome, target_mean = _center(target, section, config.center)
    scale, size = centered.square().mean(dim=0).sqrt(), features.square().mean(dim=0).sqrt()
    scale = scale.masked_fill(constant(scale, size), torch.inf) * _evened(config.kinds, features)
    standard = centered / scale
    n = len(features)
    values, vectors = torch.linalg.eigh(standard.T @ standard / n)
    keep = min(config.n_components, n - 1, len(values)) if n > 1 else len(values)
    values, vectors = values.flip(0)[:keep].clamp_min(0), vectors.flip(1)[:, :keep]
    cross = vectors.T @ (standard.T @ outcome) / n  # (k, n_genes)
    penalty = torch.tensor(alphas, dtype=features.dtype, device=features.device)
    scores = cross / (values[:, None] + penalty[:, None, None])  # (n_alphas, k, n_genes)
    if config.rank is not None and config.rank < min(scores.shape[1:]):
        fitted = values.sqrt()[:, None] * scores
        _, _, right = torch.linalg.svd(fitted, full_matrices=False)
        basis = right[:, : config.rank]
        scores = scores @ basis.transpose(1, 2) @ basis
    return feature_mean, (vectors / scale[:, None]) @ scores, target_mean


def _evened(kinds: Sequence[int] | str, features: Tensor) -> Tensor:
    """What the scale of each feature (d,) is multiplied by, so that all kinds have the same variance; 1 without kinds."""
    widths = [features.shape[1]] if isinstance(kinds, str) or not kinds else [int(width) for width in kinds]
    if sum(widths) != features.shape[1] or min(widths) < 1:
        raise ValueError(f"expected widths in `kinds` that sum to {features.shape[1]} features; found {list(kinds)}")
    share = torch.tensor(widths, dtype=features.dtype, device=features.device) * len(widths) / sum(widths)
    return share.sqrt().repeat_interleave(torch.tensor(widths, device=features.device))


def _held_out_error(
    fit: tuple[Tensor, Tensor, Tensor], features: Tensor, target: Tensor, section: Tensor, centered: bool
) -> Tensor:
    """Sum of squared errors (n_alphas, n_genes); `centered` takes the mean of each section out of truth and prediction."""
    feature_mean, weight, target_mean = fit
    outcome, inputs = target - target_mean, features - feature_mean
    if centered:
        outcome, inputs = outcome - section_mean(outcome, section), inputs - section_mean(inputs, section)
    return torch.stack([(inputs @ w - outcome).square().sum(dim=0) for w in weight])
