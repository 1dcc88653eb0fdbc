"""Earth mover's distance between gene maps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from stpredict.core._validate import check_choice, check_finite
from stpredict.metrics._pairs import check_matrix, check_pair, gene_blocks, seen
from stpredict.metrics._ranks import ranks

Scaling = Literal["percentile", "mass"]
Method = Literal["auto", "exact", "sliced"]
_DIRECTIONS, _DIRECTIONS_OF_MANY, _MANY = 200, 40, 10_000  # where each takes long, as few as change nothing
_BINS = 4096  # of equally many observations along a direction, where there are many
_HELD = 2**20  # values (8 MB) that are reordered, summed and reduced at a time
_LONG = 128  # genes from which it pays to add row to row, of which as many are taken whatever is held


def emd(
    truth: Any,
    predicted: Any,
    xy: np.ndarray,
    *,
    method: Method = "auto",
    scaling: Scaling = "percentile",
    max_exact: int = 1500,
    n_projections: int | None = None,
    n_jobs: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """Compute how far predicted expression must be moved to become the measured map, per gene.

    Each map becomes a distribution over the observations; the cost of moving is the Euclidean distance. Only the given
    observations carry mass, so pass in-tissue ones. The result is divided by the diagonal of their bounding box: it
    does not depend on the unit of `xy` and lies between 0 and 1. Smooth predictions score well by construction;
    compare with :func:`emd_uniform`, the same distance for a map without any pattern.

    Exact transport :cite:p:`flamary2021` is one linear program per gene, solved after canceling the mass that both maps
    share, which leaves the optimum unchanged for a metric cost. The sliced distance :cite:p:`bonneel2015` averages
    one-dimensional distances over directions and handles all genes at once; it is multiplied by π/2, which makes it a
    lower bound of the exact distance that is reached when all mass moves in parallel. Do not mix the two in one
    comparison.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse, of one section.
    predicted
        Predicted expression of the same shape.
    xy
        Positions (n_obs, 2), in any unit.
    method
        Kind of distance: `"exact"`, `"sliced"` (all genes at once), or `"auto"`, which is exact up to `max_exact`
        observations.
    scaling
        Scaling of the maps: `"percentile"` maps each gene to average ranks over the observations, 0–100, so that units
        and offsets do not matter; `"mass"` takes non-negative values as they are.
    max_exact
        Number of observations up to which `"auto"` is exact. Time grows with the cube of it, memory with the square.
    n_projections
        Number of directions of the sliced distance, evenly spaced; when `None`, 200 up to 10,000 observations. Beyond them, 40,
        and the cumulative distributions are taken at 4,096 places of each: together within 0.5 % of the whole.
    n_jobs
        Number of joblib threads that solve the exact problems, gene by gene.
    seed
        Random seed for the angle at which the directions start.

    Returns
    -------
    Distance per gene (n_genes,), float64, as a fraction of the bounding box's diagonal. NaN where a map is NaN or has
    no mass.

    Raises
    ------
    ValueError
        When shapes differ, positions are not finite, or `scaling="mass"` meets negative values.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import emd
    >>> xy = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> emd(np.array([[1.0], [0.0], [0.0]]), np.array([[0.0], [1.0], [0.0]]), xy, scaling="mass")
    array([0.5])
    """
    truth, predicted = check_pair(truth, predicted)
    return _emd(truth, predicted, xy, method, scaling, max_exact, n_projections, n_jobs, seed)


def emd_uniform(
    truth: Any,
    xy: np.ndarray,
    *,
    method: Method = "auto",
    scaling: Scaling = "percentile",
    max_exact: int = 1500,
    n_projections: int | None = None,
    n_jobs: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """Compute the earth mover's distance between each measured map and a uniform one.

    The distance is exact :cite:p:`flamary2021` or sliced :cite:p:`bonneel2015`, as there.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse, of one section.
    xy
        Positions (n_obs, 2), in any unit.
    method
        Kind of distance: `"exact"`, `"sliced"` or `"auto"`, as in :func:`stpredict.metrics.emd`.
    scaling
        Scaling of the maps: `"percentile"` or `"mass"`, as in :func:`stpredict.metrics.emd`.
    max_exact
        Number of observations up to which `"auto"` is exact.
    n_projections
        Number of directions of the sliced distance; as in :func:`emd` when `None`.
    n_jobs
        Number of joblib threads that solve the exact problems.
    seed
        Random seed for the angle at which the directions start.

    Returns
    -------
    Distance per gene (n_genes,), float64, as a fraction of the bounding box's diagonal; NaN as in
    :func:`stpredict.metrics.emd`.

    Raises
    ------
    ValueError
        When shapes differ, positions are not finite, or `scaling="mass"` meets negative values.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import emd_uniform
    >>> xy = np.array([[0.0, 0.0], [1.0, 0.0]])
    >>> emd_uniform(np.array([[1.0], [0.0]]), xy, scaling="mass")
    array([0.5])
    """
    return _emd(check_matrix(truth, "truth"), None, xy, method, scaling, max_exact, n_projections, n_jobs, seed)


def _emd(
    truth: Any,
    predicted: Any | None,
    xy: np.ndarray,
    method: Method,
    scaling: Scaling,
    max_exact: int,
    n_projections: int | None,
    n_jobs: int,
    seed: int,
) -> np.ndarray:
    """Distance per gene; without a prediction, to the uniform map."""
    check_choice(scaling, ("percentile", "mass"), "scaling")
    method = resolve_method(method, truth.shape[0], max_exact)
    if n_projections is None:
        n_projections = _DIRECTIONS if truth.shape[0] <= _MANY else _DIRECTIONS_OF_MANY
    if n_projections < 1:
        raise ValueError(f"expected at least one projection; found {n_projections}")
    xy = np.asarray(xy, dtype=np.float64)
    if xy.shape != (truth.shape[0], 2):
        raise ValueError(f"expected positions of shape ({truth.shape[0]}, 2); found {xy.shape}")
    check_finite(xy, "positions", "correct them first")
    result = np.full(truth.shape[1], np.nan)
    if len(xy) == 0:
        return result
    diagonal = float(np.hypot(*np.ptp(xy, axis=0)))
    xy = (xy - xy.min(axis=0)) / (diagonal or 1.0)
    cost = None
    if method == "exact":
        from scipy.spatial.distance import cdist

        cost = cdist(xy, xy)
    bins = _bins(xy, n_projections, seed) if cost is None and len(xy) > _MANY else None
    for genes in gene_blocks(truth.shape, copies=2):
        excess = _mass(seen(truth, genes), scaling)
        excess -= 1 / len(xy) if predicted is None else _mass(seen(predicted, genes), scaling)
        defined = np.isfinite(excess).all(axis=0)
        block = np.full(excess.shape[1], np.nan)
        if bins is not None:
            block[defined] = _in_bins(excess[:, defined], bins)
        elif cost is None:
            block[defined] = _sliced(excess[:, defined], xy, n_projections, seed)
        else:
            block[defined] = _exact(excess[:, defined], cost, n_jobs)
        result[genes] = block
    return result


def resolve_method(method: Method, n_obs: int, max_exact: int) -> Literal["exact", "sliced"]:
    """Return `"exact"` or `"sliced"` for a number of observations."""
    check_choice(method, ("auto", "exact", "sliced"), "method")
    if method == "auto":
        return "exact" if n_obs <= max_exact else "sliced"
    return method


def _mass(values: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Turn maps (n, g) into distributions over observations; NaN where there is no mass."""
    if scaling == "percentile":
        mass = 100 * ranks(values) / len(values)
    elif (values < 0).any():
        raise ValueError(
            f"expected non-negative values for scaling='mass'; found {values.min():g}; use scaling='percentile'"
        )
    else:
        mass = values
    total = mass.sum(axis=0)
    return np.divide(mass, total, out=np.full(mass.shape, np.nan), where=total > 0)


def _sliced(excess: np.ndarray, xy: np.ndarray, n_projections: int, seed: int) -> np.ndarray:
    """Mean over directions of the one-dimensional distances, from differences of mass (n, g).

    All maps share one support: a direction is sorted once, and the distance of each gene is the area between the two
    cumulative distributions.
    """
    width = max(2 * _LONG, _HELD // len(excess))
    parts = [np.ascontiguousarray(excess[:, first : first + width]) for first in range(0, excess.shape[1], width)]
    total = np.zeros(excess.shape[1])
    for projected in _projections(xy, n_projections, seed):
        order = np.argsort(projected)
        gaps = np.diff(projected[order])
        for index, part in enumerate(parts):
            between = part[order]
            _accumulate(between)
            np.abs(between, out=between)
            total[index * width : (index + 1) * width] += gaps @ between[:-1]
    return total / n_projections * (np.pi / 2)


def _projections(xy: np.ndarray, n_projections: int, seed: int) -> np.ndarray:
    """Positions along evenly spaced directions (n_projections, n)."""
    start = np.random.default_rng(seed).random()
    angles = np.pi * (np.arange(n_projections) + start) / n_projections
    return np.asarray((xy @ np.stack([np.cos(angles), np.sin(angles)])).T)


def _bins(xy: np.ndarray, n_projections: int, seed: int) -> list[tuple[Any, np.ndarray]]:
    """Bins of equally many observations along each direction: a sparse sum (bins, n), and how long they are.

    A direction is sorted once for all genes.
    """
    from scipy.sparse import csr_array

    n = len(xy)
    ones, ends = np.ones(n), np.linspace(0, n, _BINS + 1).astype(np.int32)
    found = []
    for projected in _projections(xy, n_projections, seed):
        order = np.argsort(projected).astype(np.int32)
        gaps = np.diff(projected[order[np.minimum(ends, n - 1)]])
        found.append((csr_array((ones, order, ends), shape=(_BINS, n)), gaps))
    return found


def _in_bins(excess: np.ndarray, bins: list[tuple[Any, np.ndarray]]) -> np.ndarray:
    """The same from cumulative distributions that are known at the ends of bins, and straight within them."""
    total, excess = np.zeros(excess.shape[1]), np.ascontiguousarray(excess)
    for sums, gaps in bins:
        cumulative = np.abs(np.cumsum(sums @ excess, axis=0))
        total += (gaps @ cumulative + gaps[1:] @ cumulative[:-1]) / 2
    return total / len(bins) * (np.pi / 2)


def _accumulate(values: np.ndarray) -> None:
    """Add up rows (n, g) in place; one row to the next where they are long, as numpy's own sums column by column."""
    if values.shape[1] < _LONG:
        np.cumsum(values, axis=0, out=values)
        return
    rows = list(values)
    for before, row in zip(rows, rows[1:], strict=False):
        np.add(before, row, out=row)


def _exact(excess: np.ndarray, cost: np.ndarray, n_jobs: int) -> np.ndarray:
    """Solve one transport problem per gene, from differences of mass (n, g) and costs (n, n)."""
    from joblib import Parallel, delayed

    solve = delayed(_transport)
    return np.array(Parallel(n_jobs=n_jobs, prefer="threads")(solve(gene, cost) for gene in excess.T), dtype=np.float64)


def _transport(excess: np.ndarray, cost: np.ndarray) -> float:
    import ot

    source, sink = np.flatnonzero(excess > 0), np.flatnonzero(excess < 0)
    surplus, deficit = excess[source], -excess[sink]
    moved = surplus.sum()
    if moved <= 1e-12 or not len(sink):
        return 0.0
    part = np.ascontiguousarray(cost[np.ix_(source, sink)])
    return float(moved * ot.emd2(surplus / moved, deficit / deficit.sum(), part, numItermax=10_000_000))
