"""Ridge regression of counts: log rates linear in the features, with the depth as offset; rows are read in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stpredict.core._constant import constant
from stpredict.core._settings import settings
from stpredict.models.nn._count_loss import count_deviance

_BYTES = 2**23, 2**27  # least and most for what is summed by gene, and for a block of rows with its temporaries
_STEPS, _SMALLEST_STEP, _ENOUGH = 30, 1 / 64, 1e-6
_TEMPORARIES = 10  # of a block, (m, n_genes) each
_KEPT = 2  # bytes for each feature of all rows that components may take: half of single precision


class CountFit(NamedTuple):
    """A fit, and what its penalty was chosen by.

    Attributes
    ----------
    feature_mean
        (d,) mean of the features over the counts.
    weight
        (d, n_genes) change of the log rate per unit of each feature.
    log_rate
        (n_genes,) log rate at the mean features, beside that of the proportions.
    offset
        (n_genes,) proportion of each gene in all counts.
    alpha
        Penalty, in information of a gene of median abundance.
    """

    feature_mean: Tensor
    weight: Tensor
    log_rate: Tensor
    offset: Tensor
    alpha: float


class CountBlock(NamedTuple):
    """Some rows: where they are among all of them, their features (m, d), counts and depths (m, n_genes), in double precision."""

    at: slice
    features: Tensor
    counts: Tensor
    depth: Tensor


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


#: From some of the genes to all rows, a block at a time.
Blocks = Callable[[slice], Iterator[CountBlock]]


def fit_counts(
    blocks: Blocks,
    theta: Tensor,
    cell: Tensor,
    sides: Sequence[tuple[Sequence[int], Sequence[int]]],
    level: Tensor,
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
    further than one of many. It is chosen on held-out rows by the weighted squared error of the working response, whose
    weighted mean over what counts as one level is taken out on both sides.

    Rows are gone through several times, block by block, and for as many genes at a time as fit into some memory: nothing is
    kept of a row but one number, or its components where there is room for those of all.

    Parameters
    ----------
    blocks
        Gives all rows in their order, with some of the genes.
    theta
        (n_genes,) inverse dispersion; infinity for Poisson.
    cell
        (n,) int64 codes of rows that are always on one side of the inner folds.
    sides
        Cells that an inner fold trains on and holds out; none leave the middle one of the penalties.
    level
        (n,) int64 codes of rows whose level is one.
    alphas
        Penalties to choose from.
    n_components
        Principal components that are kept.
    """
    n_genes, n_cells = len(theta), int(cell.max()) + 1
    d, rows = next(iter(blocks(slice(0, 1)))).features.shape[::-1]
    room = min(max(len(cell) * d, _BYTES[0]), _BYTES[1])  # a quarter of the features in single precision
    offset, information, shape = _proportions(blocks, theta, cell, _gene_slices(n_genes, 8 * n_cells, rows, room))
    sums = _FeatureSums(blocks(slice(0, 0)), shape, cell)
    n_alphas = len(alphas)
    best = n_alphas // 2
    if sides and n_alphas > 1:
        bases = [sums.basis(train, n_components) for train, _ in sides]
        per_gene = 16 * n_cells * d + 8 * n_alphas * (
            sum(len(basis.variance) for basis in bases) + int(level.max()) + 1
        )
        errors = []
        for genes in _gene_slices(n_genes, per_gene, rows, room):
            part = information[:, genes], offset[genes], theta[genes]
            cross = sums.cross(blocks(genes), cell, *part[1:])
            slopes = [
                _first_step(basis, cross, part[0], information[list(train)].sum(dim=0).median(), train, alphas)
                for basis, (train, _) in zip(bases, sides, strict=True)
            ]
            errors.append(_held_out(blocks(genes), bases, slopes, cell, sides, level, *part[1:]))
        error, null = (torch.cat(each, dim=-1) for each in zip(*errors, strict=True))
        best = int((error / null.clamp_min(1e-12)).mean(dim=1).argmin())
    alpha = float(alphas[best])
    basis = sums.basis(range(n_cells), n_components)
    whole = information.sum(dim=0)
    penalty = alpha * whole.median()
    scores = _Scores(basis, len(cell))

    def solved(genes: slice) -> tuple[torch.Tensor, ...]:
        data = theta[genes], offset[genes], whole[genes], basis.variance, penalty
        return _solve(lambda: scores(blocks(genes)), *data)

    parts = [solved(genes) for genes in _gene_slices(n_genes, 64 * len(basis.variance), rows, room)]
    intercept, slope = (torch.cat(each, dim=-1) for each in zip(*parts, strict=True))
    return CountFit(basis.mean, basis.turn @ slope, intercept, offset, alpha)


def _gene_slices(n_genes: int, per_gene: int, rows: int, room: int) -> list[slice]:
    """Genes that are worked on together: of so many bytes for each, beside those of a block of rows."""
    step = max(1, room // (per_gene + 8 * _TEMPORARIES * rows))
    return [slice(start, min(start + step, n_genes)) for start in range(0, n_genes, step)]


def _proportions(blocks: Blocks, theta: Tensor, cell: Tensor, slices: Sequence[slice]) -> tuple[Tensor, Tensor, Tensor]:
    """Proportion of each gene (n_genes,), its information in each cell, and the share of each row (n,) in that of a gene."""
    n_cells, shape = int(cell.max()) + 1, torch.zeros(len(cell), dtype=theta.dtype, device=theta.device)
    offsets, found = [], []
    for genes in slices:
        # Added where they stand: small arrays that are kept between large ones that are not leave holes in the memory.
        total = theta.new_zeros(2, genes.stop - genes.start)
        for block in blocks(genes):
            total[0] += block.counts.sum(dim=0)
            total[1] += block.depth.sum(dim=0)
        offset = total[0].clamp_min(0.5) / total[1].clamp_min(1)
        information = theta.new_zeros(n_cells, len(offset))
        for block in blocks(genes):
            information.index_add_(0, cell[block.at], _weights(block.depth, offset, theta[genes]))
        whole = information.sum(dim=0).clamp_min(1e-12)
        for block in blocks(genes):
            shape[block.at] += (_weights(block.depth, offset, theta[genes]) / whole).sum(dim=1)
        offsets.append(offset)
        found.append(information)
    return torch.cat(offsets), torch.cat(found, dim=1), shape / len(theta)


def _weights(depth: Tensor, offset: Tensor, theta: Tensor) -> Tensor:
    """Information (n, n_genes) of each count about its log rate at constant proportions."""
    mean = depth * offset
    return mean / (1 + mean / theta)


def _response(counts: Tensor, depth: Tensor, offset: Tensor, theta: Tensor) -> Tensor:
    """Gradient (n, n_genes) of the likelihood in the log rate at constant proportions."""
    mean = depth * offset
    return (counts - mean) / (1 + mean / theta)


class _FeatureSums:
    """Sums of features by cell of rows, about a point near their mean, under weights that are those of an average gene."""

    def __init__(self, blocks: Iterator[CountBlock], shape: Tensor, cell: Tensor) -> None:
        n_cells, begun = int(cell.max()) + 1, False
        for block in blocks:
            if not begun:
                self.center, d, begun = block.features.mean(dim=0), block.features.shape[1], True
                self._n, self._weight = (shape.new_zeros(n_cells) for _ in range(2))
                self._sum, self._plain, self._plain_square = (shape.new_zeros(n_cells, d) for _ in range(3))
                self._square = shape.new_zeros(n_cells, d, d)
            weight = shape[block.at]
            x, here = block.features - self.center, cell[block.at]
            self._n.index_add_(0, here, torch.ones_like(weight))
            self._weight.index_add_(0, here, weight)
            self._sum.index_add_(0, here, weight[:, None] * x)
            self._plain.index_add_(0, here, x)
            self._plain_square.index_add_(0, here, x.square())
            for code in here.unique().tolist():
                own = x[here == code]
                self._square[code].addmm_(own.T, weight[here == code][:, None] * own)

    def basis(self, cells: Sequence[int], n_components: int) -> Basis:
        """Principal components of the standardized features of some cells."""
        chosen = torch.tensor(list(cells), device=self.center.device)
        weight, n = self._weight[chosen].sum().clamp_min(1e-300), self._n[chosen].sum()
        mean = self._sum[chosen].sum(dim=0) / weight
        square = self._square[chosen[0]].clone()
        for code in chosen[1:]:
            square += self._square[code]
        square = square / weight - torch.outer(mean, mean)
        plain = self._plain_square[chosen].sum(dim=0) + 2 * self.center * self._plain[chosen].sum(dim=0)
        size = (plain / n + self.center.square()).clamp_min(0).sqrt()
        scale = square.diagonal().clamp_min(0).sqrt()
        scale = scale.masked_fill(constant(scale, size), torch.inf)
        values, vectors = torch.linalg.eigh(square / scale[:, None] / scale)
        keep = min(n_components, max(int(n) - 1, 1), len(values))
        return Basis(self.center + mean, vectors.flip(1)[:, :keep] / scale[:, None], values.flip(0)[:keep].clamp_min(0))

    def cross(
        self, blocks: Iterator[CountBlock], cell: Tensor, offset: Tensor, theta: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sums by cell of the features times response and times weight (n_cells, d, n_genes), and of the response."""
        n_cells, d = len(self._n), len(self.center)
        response, weight = (offset.new_zeros(n_cells, d, len(offset)) for _ in range(2))
        total = offset.new_zeros(n_cells, len(offset))
        for block in blocks:
            x, here = block.features - self.center, cell[block.at]
            r, w = (
                _response(block.counts, block.depth, offset, theta),
                _weights(block.depth, offset, theta),
            )
            total.index_add_(0, here, r)
            for code in here.unique().tolist():
                own = here == code
                response[code].addmm_(x[own].T, r[own])
                weight[code].addmm_(x[own].T, w[own])
        return response, weight, total


def _first_step(
    basis: Basis,
    cross: tuple[Tensor, Tensor, Tensor],
    information: Tensor,
    middle: Tensor,
    train: Sequence[int],
    alphas: Sequence[float],
) -> Tensor:
    """Slopes (n_alphas, k, n_genes) of a ridge regression of the working response, less its mean, of some cells."""
    rows = list(train)
    response, weight, total = (each[rows].sum(dim=0) for each in cross)
    own = information[rows].sum(dim=0)
    product = basis.turn.T @ (response - weight * (total / own.clamp_min(1e-12)))
    slopes = product.new_empty(len(alphas), *product.shape)
    for number, alpha in enumerate(alphas):  # one after the other: they are the most that is held
        torch.div(product, (own * basis.variance[:, None] + alpha * middle).clamp_min_(1e-12), out=slopes[number])
    return slopes


def _held_out(
    blocks: Iterator[CountBlock],
    bases: Sequence[Basis],
    slopes: Sequence[Tensor],
    cell: Tensor,
    sides: Sequence[tuple[Sequence[int], Sequence[int]]],
    level: Tensor,
    offset: Tensor,
    theta: Tensor,
) -> tuple[Tensor, Tensor]:
    """Weighted squared error (n_alphas, n_genes) of the working response of all folds, and that of a constant (n_genes,).

    About the weighted mean of each level: the sum of squares less the square of the sum.
    """
    n_alphas, n_genes, n_levels = len(slopes[0]), len(offset), int(level.max()) + 1
    error, null = offset.new_zeros(n_alphas, n_genes), offset.new_zeros(n_genes)
    held = [torch.isin(cell, torch.tensor(list(out), device=cell.device)) for _, out in sides]
    # Levels of all folds side by side: those of a fold are its own, and most are in one.
    pairs = [level[rows].unique() for rows in held]
    first = [sum(map(len, pairs[:number])) for number in range(len(pairs))]
    n_pairs = sum(map(len, pairs))
    weights, means = offset.new_zeros(n_pairs, n_genes), offset.new_zeros(n_alphas + 1, n_pairs, n_genes)
    place = torch.zeros(n_levels, dtype=torch.int64, device=level.device)
    for block in blocks:
        for number, rows in enumerate(held):
            here = rows[block.at]
            if not here.any():
                continue
            place[pairs[number]] = torch.arange(len(pairs[number]), device=level.device) + first[number]
            code = place[level[block.at][here]]
            weight = _weights(block.depth[here], offset, theta)
            expected = block.depth[here] * offset
            response = torch.where(expected > 0, block.counts[here] / expected.clamp_min(1e-12) - 1, 0.0)
            weights.index_add_(0, code, weight)
            means[-1].index_add_(0, code, weight * response)
            null += (weight * response.square()).sum(dim=0)
            scores = (block.features[here] - bases[number].mean) @ bases[number].turn
            for which, slope in enumerate(slopes[number]):
                apart = response - scores @ slope
                weighted = weight * apart
                means[which].index_add_(0, code, weighted)
                error[which] += (weighted * apart).sum(dim=0)
    of_means = means.square().div_(weights.clamp_min(1e-300)).sum(dim=1)
    return (error - of_means[:-1]).clamp_min(0), (null - of_means[-1]).clamp_min(0)


class _Scores:
    """Components of the features of blocks, kept where those of all rows take less room than half of the features."""

    def __init__(self, basis: Basis, n: int) -> None:
        self.basis = basis
        d, k = basis.turn.shape
        self._kept: dict[int, Tensor] = {}
        self._keeps = 8 * n * k <= min(int(settings.memory), _KEPT * n * d)

    def __call__(self, blocks: Iterator[CountBlock]) -> Iterator[tuple[Tensor, CountBlock]]:
        for block in blocks:
            scores = self._kept.get(block.at.start)
            if scores is None:
                scores = (block.features - self.basis.mean) @ self.basis.turn
                if self._keeps:
                    self._kept[block.at.start] = scores
            yield scores, block


def _solve(
    rows: Callable[[], Iterator[tuple[Tensor, CountBlock]]],
    theta: Tensor,
    offset: Tensor,
    information: Tensor,
    variance: Tensor,
    penalty: Tensor,
) -> tuple[Tensor, Tensor]:
    """Intercepts (n_genes,) and slopes (k, n_genes) of the largest penalized likelihood; a gene that has come to rest stays."""
    log_offset = offset.clamp_min(1e-300).log()
    information = information.clamp_min(1e-12)
    curvature = (information * variance[:, None] + penalty).clamp_min(1e-12)

    def at(b: Tensor, beta: Tensor, genes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is lost with the penalty, and the gradients, of some genes."""
        own, base = theta[genes], log_offset[genes] + b
        lost, move_b, move = penalty * beta.square().sum(dim=0) / 2, torch.zeros_like(b), -penalty * beta
        for scores, block in rows():
            counts, depth = block.counts[:, genes], block.depth[:, genes]
            eta = base + scores @ beta
            lost += count_deviance(counts, eta, depth, own).sum(dim=0) / 2
            mean = depth * eta.exp()
            response = (counts - mean) / (1 + mean / own)
            move_b += response.sum(dim=0)
            move += scores.T @ response
        return lost, move_b / information[genes], move / curvature[:, genes]

    intercept, slope, step = torch.zeros_like(information), torch.zeros_like(curvature), torch.ones_like(information)
    moving = torch.arange(len(offset), device=offset.device)
    lost, move_b, move = at(intercept, slope, moving)
    for _ in range(_STEPS):
        b, beta = intercept[moving] + step[moving] * move_b, slope[:, moving] + step[moving] * move
        new, new_b, new_move = at(b, beta, moving)
        better = new <= lost
        gained = ((lost - new) / lost.clamp_min(1e-12)).masked_fill(~better, 0)
        took = moving[better]
        intercept[took], slope[:, took] = b[better], beta[:, better]
        lost, move_b = torch.where(better, new, lost), torch.where(better, new_b, move_b)
        move = torch.where(better, new_move, move)
        step[moving] = torch.where(better, (2 * step[moving]).clamp_max(1.0), step[moving] / 2)
        on = ~(better & (gained < _ENOUGH) | (step[moving] < _SMALLEST_STEP))
        if not on.any():
            break
        moving, lost, move_b, move = moving[on], lost[on], move_b[on], move[:, on]
    return intercept, slope
