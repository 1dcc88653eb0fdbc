"""Ridge regression of counts: log rates linear in the features, with the depth as offset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stpredict.core._constant import constant
from stpredict.models.nn._count_loss import count_deviance

_BLOCK = 4_000_000  # values (observations × genes) worked on at a time
_STEPS, _SMALLEST_STEP, _ENOUGH = 30, 1 / 64, 1e-6


class CountFit(NamedTuple):
    """A fit, and what its penalty was chosen by.

    Attributes
    ----------
    feature_mean
        (d,) mean of the features over the counts.
    weight
        (d, n_genes) change of the log rate per unit of each feature.
    log_rate
        (n_genes,) log rate at the mean features.
    alpha
        Penalty, in information of a gene of median abundance.
    """

    feature_mean: Tensor
    weight: Tensor
    log_rate: Tensor
    alpha: float


class Basis(NamedTuple):
    """Components of standardized features under the weights of the observations.

    Attributes
    ----------
    mean
        (d,) weighted mean of the features.
    turn
        (d, k) from centered features to components.
    variance
        (k,) weighted variance of each component.
    """

    mean: Tensor
    turn: Tensor
    variance: Tensor


def fit_counts(
    features: Tensor,
    counts: Tensor,
    depth: Tensor,
    theta: Tensor,
    offset: Tensor,
    folds: Sequence[tuple[Tensor, Tensor]],
    level: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    alphas: Sequence[float],
    n_components: int,
) -> CountFit:
    r"""Maximize the penalized likelihood of counts whose log rate is linear in principal components of the features.

    With :math:`\mu_{ig} = n_{ig} p_g e^{b_g + f_i \beta_g}`, :math:`p` the offset, the gradient of the likelihood is
    :math:`\sum_i f_i r_{ig}`, :math:`r = (x - \mu) / (1 + \mu / \theta)`, and its curvature is
    :math:`\sum_i w_{ig} f_i f_i^\top`, :math:`w = \mu / (1 + \mu / \theta)`. At a constant proportion the weights of the
    observations are nearly the same for every gene but for a factor, the information :math:`I_g = \sum_i w_{ig}` (exactly
    for Poisson and one depth: :math:`w = n_i p_g`). One eigendecomposition under these weights, with variances :math:`\lambda`,
    therefore serves all genes, and a step of Fisher's scoring is a product of matrices,

    .. math:: \beta_g \leftarrow \beta_g + t \, \frac{\sum_i f_i r_{ig} - \alpha \bar I \beta_g}
        {I_g \lambda + \alpha \bar I},

    repeated with the curvature held and :math:`t` halved for a gene whose likelihood has fallen. The first step is a ridge
    regression of the working response. The penalty :math:`\alpha \bar I`, with :math:`\bar I` the median information, is
    the same for every gene: one prior of the slopes of log rates, so that a gene of few counts is drawn to its constant
    further than one of many. It is chosen on held-out rows by the weighted squared error of the working response.

    Parameters
    ----------
    features
        (n, d).
    counts, depth
        (n, n_genes) counts, and the depth behind each.
    theta
        (n_genes,) inverse dispersion; infinity for Poisson.
    offset
        (n_genes,) proportions that the log rates are relative to.
    folds
        Masks (n,) of what the inner cross-validation trains on and holds out; none leave the middle one of the penalties.
    level
        Takes the level out of values (m, n_genes) with weights of the same shape of the rows that are held out (n,), as
        the held-out error is to be compared.
    alphas
        Penalties to choose from.
    n_components
        Principal components that are kept.
    """
    information = _weights(depth, offset, theta)
    shape = (information / information.sum(dim=0).clamp_min(1e-12)).mean(dim=1)
    best = len(alphas) // 2
    if folds and len(alphas) > 1:
        error = torch.zeros(len(alphas), counts.shape[1], dtype=features.dtype, device=features.device)
        null = torch.zeros_like(error[0])
        for train, held in folds:
            rows = (features, counts, depth, shape)
            inside, outside = ([each[side] for each in rows] for side in (train, held))
            basis = _basis(inside[0], inside[3], n_components)
            slopes = _first_step(basis, inside, offset, theta, alphas)
            part, nothing = _held_out(basis, slopes, outside, offset, theta, level, held)
            error += part
            null += nothing
        best = int((error / null.clamp_min(1e-12)).mean(dim=1).argmin())
    alpha = float(alphas[best])
    basis = _basis(features, shape, n_components)
    scores = (features - basis.mean) @ basis.turn
    width = max(1, _BLOCK // max(len(features), 1))
    middle = information.sum(dim=0).median()
    parts = [
        _solve(scores, counts[:, genes], depth[:, genes], theta[genes], offset[genes], basis.variance, alpha * middle)
        for genes in (slice(start, start + width) for start in range(0, counts.shape[1], width))
    ]
    intercept, slope = (torch.cat(each, dim=-1) for each in zip(*parts, strict=True))
    return CountFit(basis.mean, basis.turn @ slope, intercept, alpha)


def _weights(depth: Tensor, offset: Tensor, theta: Tensor) -> Tensor:
    """Information (n, n_genes) of each count about its log rate at constant proportions."""
    mean = depth * offset
    return mean / (1 + mean / theta)


def _basis(features: Tensor, shape: Tensor, n_components: int) -> Basis:
    """Principal components of standardized features (n, d) under weights (n,)."""
    weight = (shape / shape.sum())[:, None]
    mean = (weight * features).sum(dim=0)
    centered = features - mean
    scale, size = (weight * centered.square()).sum(dim=0).sqrt(), features.square().mean(dim=0).sqrt()
    scale = scale.masked_fill(constant(scale, size), torch.inf)
    standard = centered / scale
    values, vectors = torch.linalg.eigh(standard.T @ (weight * standard))
    keep = min(n_components, max(len(features) - 1, 1), len(values))
    return Basis(mean, vectors.flip(1)[:, :keep] / scale[:, None], values.flip(0)[:keep].clamp_min(0))


def _first_step(basis: Basis, rows: Sequence[Tensor], offset: Tensor, theta: Tensor, alphas: Sequence[float]) -> Tensor:
    """Slopes (n_alphas, k, n_genes) of a ridge regression of the working response."""
    features, counts, depth = rows[:3]
    weight = _weights(depth, offset, theta)
    information = weight.sum(dim=0)
    response = (counts - depth * offset) / (1 + depth * offset / theta)
    response = response - weight * (response.sum(dim=0) / information.clamp_min(1e-12))
    cross = basis.turn.T @ ((features - basis.mean).T @ response)
    penalty = torch.tensor(alphas, dtype=cross.dtype, device=cross.device)[:, None, None] * information.median()
    return cross / (information * basis.variance[:, None] + penalty).clamp_min(1e-12)


def _held_out(
    basis: Basis,
    slopes: Tensor,
    rows: Sequence[Tensor],
    offset: Tensor,
    theta: Tensor,
    level: Callable[[Tensor, Tensor, Tensor], Tensor],
    held: Tensor,
) -> tuple[Tensor, Tensor]:
    """Weighted squared error (n_alphas, n_genes) of the working response, and that of a constant (n_genes,)."""
    features, counts, depth = rows[:3]
    weight = _weights(depth, offset, theta)
    expected = depth * offset
    response = torch.where(expected > 0, counts / expected.clamp_min(1e-12) - 1, torch.zeros_like(counts))
    response = level(response, weight, held)
    scores = (features - basis.mean) @ basis.turn
    errors = [(weight * (response - level(scores @ slope, weight, held)).square()).sum(dim=0) for slope in slopes]
    return torch.stack(errors), (weight * response.square()).sum(dim=0)


def _solve(
    scores: Tensor, counts: Tensor, depth: Tensor, theta: Tensor, offset: Tensor, variance: Tensor, penalty: Tensor
) -> tuple[Tensor, Tensor]:
    """Intercepts (n_genes,) and slopes (k, n_genes) of the largest penalized likelihood."""
    log_offset = offset.clamp_min(1e-300).log()
    information = _weights(depth, offset, theta).sum(dim=0).clamp_min(1e-12)
    curvature = (information * variance[:, None] + penalty).clamp_min(1e-12)
    intercept, slope = torch.zeros_like(information), torch.zeros_like(curvature)

    def at(b: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        eta = log_offset + b + scores @ beta
        lost = count_deviance(counts, eta, depth, theta).sum(dim=0) / 2 + penalty * beta.square().sum(dim=0) / 2
        return eta, lost

    eta, lost = at(intercept, slope)
    step = torch.ones_like(information)
    for _ in range(_STEPS):
        mean = depth * eta.exp()
        response = (counts - mean) / (1 + mean / theta)
        move_b = response.sum(dim=0) / information
        move = (scores.T @ response - penalty * slope) / curvature
        eta_new, lost_new = at(intercept + step * move_b, slope + step * move)
        better = lost_new <= lost
        gained = ((lost - lost_new) / lost.clamp_min(1e-12)).masked_fill(~better, 0)
        intercept = torch.where(better, intercept + step * move_b, intercept)
        slope = torch.where(better, slope + step * move, slope)
        eta, lost = torch.where(better, eta_new, eta), torch.where(better, lost_new, lost)
        step = torch.where(better, (2 * step).clamp_max(1.0), step / 2)
        if bool((better & (gained < _ENOUGH) | (step < _SMALLEST_STEP)).all()):
            break
    return intercept, slope
