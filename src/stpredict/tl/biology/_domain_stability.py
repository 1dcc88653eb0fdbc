"""How stable domains are at each resolution, without any labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._progress import steps
from stpredict.core._validate import check_choice, check_finite, check_positive
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.tl.biology._cluster import (
    Communities,
    check_smooth,
    neighbor_graph,
    neighbor_means,
    principal_components,
    smoothed,
    without_small,
)
from stpredict.tl.biology._domains import expression_matrix

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

    from stpredict.slots._container import Container

RESOLUTIONS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.4, 2.0)
_NEAR_BEST = 0.95  # of the best agreement, which the plateau does not fall below
_NULL_RUNS = 4
_ABOVE_NOISE = 0.15  # by which an agreement has to exceed that of noise; less is seen between draws of noise
_LEAST = 0.5  # agreement below which nothing is suggested


def domain_stability(
    data: Container,
    key: str = Key.PREDICTED,
    *,
    use: Literal["predicted", "measured"] = "predicted",
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    resolutions: Sequence[float] = RESOLUTIONS,
    n_runs: int = 8,
    fraction: float = 0.8,
    n_pcs: int = 50,
    n_neighbors: int = 15,
    smooth: float = 0.0,
    min_size: int = 0,
    sample_key: str = Key.SAMPLE,
    seed: int = 0,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Cluster parts of the observations again and again at each resolution, and see how far the domains agree.

    Each run takes a `fraction` of the observations with their connections in the graph of nearest neighbors, and Leiden
    starts from another seed. Two runs are compared by the adjusted Rand index of the observations that both have. No labels are
    read. Stable is not the same as right: domains that a smooth map brings about by itself are stable as well. `null_ari`
    is the agreement that the same steps reach on normal noise with the mean and the spread of every component in each section:
    what structure needs to exceed. With `smooth` it is that of smoothed noise.

    Parameters
    ----------
    data
        AnnData or SpatialData with predicted (or measured, normalized) expression.
    key, use, genes, layer, n_pcs, n_neighbors, smooth, min_size, sample_key
        As in :func:`stpredict.tl.domains`, which is to be called with the same.
    resolutions
        Resolutions of Leiden, ascending.
    n_runs
        Runs at each resolution, at least 2.
    fraction
        Part of the observations of each run.
    seed
        Random seed of parts, components and runs.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per resolution; nothing is written to `data`:

    - `resolution`;
    - `ari`, the mean over pairs of runs, between `low` and `high`, its 10 % and 90 % quantiles over pairs;
    - `n_domains`, the median over runs, between `n_low` and `n_high`;
    - `null_ari` (`NaN` where a run on noise finds one domain), and `null_n_domains`.

    `attrs["suggested"]` is a resolution, `attrs["n_domains"]` the number of domains there, and `attrs["plateau"]` the first and last of the
    resolutions around it with at least two domains in every run and 95 % of the best agreement. Of several such
    plateaus the longest is taken, and of it the finest resolution. They are `None` where no agreement reaches .5 and exceeds that of noise by .15.

    Raises
    ------
    KeyError
        When the prediction, a gene or the sections are missing.
    ValueError
        When values are not finite, there are too few observations or genes, or an option is out of range.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> adata = ad.AnnData(np.zeros((90, 0)), obs=pd.DataFrame({"sample": "s"}, index=[f"o{i}" for i in range(90)]))
    >>> values = rng.normal(np.repeat(4 * np.eye(3, 8), 30, axis=0), 1)
    >>> adata.obsm["predicted"] = pd.DataFrame(values, adata.obs_names, list("ABCDEFGH"))
    >>> table = stp.tl.domain_stability(adata, resolutions=(0.1, 0.3, 1.0), n_runs=4)
    >>> table.attrs["n_domains"]
    3
    """
    import pandas as pd

    from stpredict.core._table import compact

    check_choice(use, ("predicted", "measured"), "use")
    check_smooth(smooth)
    values = [check_positive(value, "every value of resolutions") for value in resolutions]
    if not values or sorted(set(values)) != values:
        raise ValueError(f"expected ascending, different resolutions; found {tuple(resolutions)}")
    if int(n_runs) != n_runs or n_runs < 2:
        raise ValueError(f"expected n_runs to be at least 2; found {n_runs!r}")
    if not 0 < fraction <= 1:
        raise ValueError(f"expected fraction above 0 and up to 1; found {fraction!r}")
    adata = get_table(data, table_key)
    matrix, _ = expression_matrix(adata, key, use, genes, layer)
    stored = matrix.data if hasattr(matrix, "toarray") else matrix
    check_finite(np.atleast_1d(stored), f"{use} expression", "leave out observations without it: adata[mask]")
    if fraction * matrix.shape[0] < 3 or matrix.shape[1] < 2:
        raise ValueError(f"expected at least 3 observations of each run and 2 genes; found {matrix.shape}")
    everyone = np.arange(adata.n_obs)
    weights = neighbor_means(adata, sample_key, "smooth") if smooth else None
    own = principal_components(matrix, n_pcs, seed)
    sections = adata.obs[sample_key].astype(str).to_numpy() if sample_key in adata.obs else np.zeros(adata.n_obs)
    noise = _noise(own, sections, np.random.default_rng(seed))
    found = []
    for components in (own, noise):
        mixed = smoothed(components, weights, everyone, smooth)
        graph = neighbor_graph(mixed, n_neighbors, seed)
        runs = int(n_runs) if components is own else min(int(n_runs), _NULL_RUNS)
        found.append(_curve(graph, mixed, values, runs, fraction, int(min_size), seed))
    real, null = found
    table = pd.DataFrame(
        {
            "resolution": values,
            "ari": [one["ari"] for one in real],
            "low": [one["low"] for one in real],
            "high": [one["high"] for one in real],
            "n_domains": [one["n"] for one in real],
            "n_low": [one["n_low"] for one in real],
            "n_high": [one["n_high"] for one in real],
            # Noise that is not divided agrees with itself, and says nothing.
            "null_ari": [one["ari"] if one["n_low"] > 1 else np.nan for one in null],
            "null_n_domains": [one["n"] for one in null],
        }
    )
    plateau = _plateau(table)
    table = compact(table, ["resolution", "ari", "low", "high", "n_domains", "null_ari"])
    table.attrs |= {
        "use": use, "key": key, "smooth": float(smooth), "min_size": int(min_size), "n_runs": int(n_runs), "fraction": float(fraction),
        "plateau": None if plateau is None else (values[plateau[0]], values[plateau[1]]),
        "suggested": None if plateau is None else values[plateau[1]],
        "n_domains": None if plateau is None else int(table["n_domains"].iloc[plateau[1]]),
    }  # fmt: skip
    return table


def _noise(components: np.ndarray, sections: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normal noise (n, k) with the mean and spread of each component in each section.

    Not the shuffled components: those of groups have several peaks, and so would have their combinations.
    """
    noise = np.empty_like(components)
    for name in np.unique(sections):
        rows = np.flatnonzero(sections == name)
        own = components[rows]
        noise[rows] = rng.normal(own.mean(axis=0), own.std(axis=0), own.shape)
    return noise


def _curve(
    graph: csr_matrix,
    components: np.ndarray,
    values: list[float],
    n_runs: int,
    fraction: float,
    min_size: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Agreement of runs and their numbers of domains, at each resolution."""
    rng = np.random.default_rng([seed, 1])
    n = graph.shape[0]
    parts = [np.sort(rng.choice(n, max(3, round(fraction * n)), replace=False)) for _ in range(n_runs)]
    graphs = [Communities(graph[rows][:, rows]) for rows in parts]
    curve = []
    for value in steps(values, "stability"):
        labels = np.full((n_runs, n), -1)
        for run, (rows, part) in enumerate(zip(parts, graphs, strict=True)):
            own = part(value, seed + run)
            labels[run, rows] = without_small(own, components[rows], round(min_size * fraction))[0]
        scores = _agreements(labels)
        number = labels.max(axis=1) + 1
        curve.append(
            {
                "ari": float(scores.mean()), "low": float(np.quantile(scores, 0.1)), "high": float(np.quantile(scores, 0.9)),
                "n": float(np.median(number)), "n_low": int(number.min()), "n_high": int(number.max()),
            }
        )  # fmt: skip
    return curve


def _agreements(labels: np.ndarray) -> np.ndarray:
    """Adjusted Rand index of each pair of runs (n_runs, n), over the observations that both have."""
    from sklearn.metrics import adjusted_rand_score

    scores = []
    for one, other in combinations(labels, 2):
        both = (one >= 0) & (other >= 0)
        scores.append(float(adjusted_rand_score(one[both], other[both])))
    return np.array(scores)


def _plateau(table: pd.DataFrame) -> tuple[int, int] | None:
    """First and last row of the longest stretch that is nearly as stable as the best; of equal ones the finest."""
    divided = (table["n_low"] >= 2).to_numpy()
    ari, null = table["ari"].to_numpy(), table["null_ari"].to_numpy()
    usable = divided & (ari >= _LEAST) & ~(ari < null + _ABOVE_NOISE)
    if not usable.any():
        return None
    stable = usable & (ari >= _NEAR_BEST * ari[usable].max())
    best: tuple[int, int] | None = None
    start = None
    for row in range(len(stable) + 1):
        inside = row < len(stable) and bool(stable[row])
        if inside and start is None:
            start = row
        if not inside and start is not None:
            if best is None or row - start >= best[1] - best[0] + 1:
                best = (start, row - 1)
            start = None
    return best
