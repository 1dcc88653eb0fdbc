"""How genes vary together over sections: predicted, measured, and by smoothness alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._progress import steps
from stpredict.core._validate import check_finite, few
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of
from stpredict.slots._prediction import of_all_folds, prediction_frame
from stpredict.slots._truth import measured_values_of
from stpredict.tl.judge._spatial_null import displaced

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container

_LARGEST = 1 - 1e-7  # correlation that Fisher's z is taken of
_TURNS = 64  # turned maps that the null draws from
_MOST_MODULES = 12
_FEWEST = 3


@dataclass(frozen=True, repr=False)
class ModuleCorrelation:
    """Correlations between genes over the observations of sections, and modules of genes.

    Attributes
    ----------
    predicted
        Correlation (n_genes, n_genes) of predicted maps, the mean of Fisher's z over sections.
    measured
        The same of what was measured; `None` where nothing was.
    modules
        Module of each gene, from 1 on, by average linkage of 1 - `predicted`; larger ones first.
    linkage
        The tree, as :func:`scipy.cluster.hierarchy.linkage` returns it.
    summary
        Numbers of the comparison: `n_genes`, `n_left_out` (genes that are constant in every section), `n_sections`; the mean
        absolute correlation `mean_predicted`, `mean_measured`, and `mean_turned` of predicted maps that were each turned by
        another angle; Mantel's r of both matrices, `mantel`, with `p_mantel` (one-sided, names of genes permuted), and
        `mantel_turned` and `p_turned`, mean and one-sided p of the r of turned maps.
    """

    predicted: pd.DataFrame
    measured: pd.DataFrame | None
    modules: pd.Series
    linkage: np.ndarray
    summary: pd.Series

    def __repr__(self) -> str:
        """The sizes of the modules, and the numbers of the comparison."""
        sizes = ", ".join(map(str, self.modules.value_counts().sort_index()))
        numbers = "\n".join(f"  {name:<16}{value:.4g}" for name, value in self.summary.items())
        return f"ModuleCorrelation of {len(self.modules)} genes in modules of {sizes}\n{numbers}"


def module_correlation(
    data: Container,
    key: str = Key.PREDICTED,
    *,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    n_modules: int | None = None,
    n_permutations: int = 199,
    sample_key: str = Key.SAMPLE,
    spatial_key: str = Key.SPATIAL,
    seed: int = 0,
    progress: bool | None = None,
    table_key: str = Key.TABLE,
) -> ModuleCorrelation:
    """Correlate the maps of genes with each other, section by section, and compare the matrix with that of the measured maps.

    Predicted maps are smooth, and smooth maps correlate with each other whatever they show: read `mean_predicted` beside
    `mean_turned`, which is what maps as smooth as these reach that have nothing to do with each other. Measured maps are noisy, and
    correlate less than the expression behind them. Mantel's r compares the order of pairs, which neither enters.

    Parameters
    ----------
    data
        AnnData or SpatialData with a prediction, and measured, normalized expression where there is any.
    key
        Slot of the prediction in `obsm`.
    genes
        Genes to use; when `None` all that were predicted in all observations, which a warning says where others were not. Time and memory are quadratic in them: a few hundred.
    layer
        Layer with the measured values; `X` by default.
    n_modules
        Number of modules; by default that with the highest mean silhouette, up to 12.
    n_permutations
        Number of permutations of the names of genes, and of draws of turned maps.
    sample_key, spatial_key
        Column of `obs` that names the section, and slot of the positions.
    seed
        Random seed.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    A :class:`ModuleCorrelation`; :func:`stpredict.pl.module_correlation` draws it. Nothing is written to `data`.

    Raises
    ------
    KeyError
        When the prediction, a gene, the sections or the positions are missing.
    ValueError
        When values are not finite, or fewer than three genes vary.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When some genes were not predicted in all observations, as when folds choose genes of their own.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=80, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> scores = stp.tl.cross_validate(adata, ["ridge"], baselines=False)
    >>> found = stp.tl.module_correlation(adata, "predicted_ridge", n_permutations=19)
    >>> found.predicted.shape, bool(found.summary["mantel"] > found.summary["mantel_turned"])
    ((20, 20), True)
    """
    import pandas as pd
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if n_permutations < 1:
        raise ValueError(f"expected n_permutations to be at least 1; found {n_permutations}")
    adata = get_table(data, table_key)
    frame = prediction_frame(adata, key, genes)
    if genes is None:
        frame = of_all_folds(frame, key, stacklevel=3)
    tissue = in_tissue(adata)
    rows = tissue & frame.notna().all(axis=1).to_numpy()
    values = frame.to_numpy(dtype=np.float64)
    check_finite(values[rows], f"obsm[{key!r}]", "predict again, or leave observations out: adata[mask]")
    if sample_key in adata.obs:
        check_obs(adata, sample_key)
        sections = pd.factorize(adata.obs[sample_key].astype(str))[0]
    else:
        sections = np.zeros(adata.n_obs, dtype=np.int64)
    groups = [
        where for code in np.unique(sections[rows]) if len(where := np.flatnonzero(rows & (sections == code))) > _FEWEST
    ]
    varies = _varying(values, groups)
    if varies.sum() < _FEWEST:
        raise ValueError(
            f"expected at least {_FEWEST} genes whose prediction varies in a section; found {few(frame.columns[varies]) or 'none'}"
        )
    names, values = frame.columns[varies], values[:, varies]
    predicted = _mean_correlation(values, groups)

    measured = None
    truth = measured_values_of(adata, key, list(names), layer)
    if truth.shape[1]:
        complete = truth.notna().all(axis=1).to_numpy()
        told = [both for where in groups if len(both := where[complete[where]]) > _FEWEST]
        if told:
            measured = _mean_correlation(truth.reindex(columns=names).to_numpy(dtype=np.float64), told)

    rng = np.random.default_rng(seed)
    turns = (
        displaced(sections, positions_of(adata, spatial_key), _TURNS, "rotation", rng)
        if spatial_key in adata.obsm
        else None
    )
    turned, turned_mantel = [], []
    for _ in steps(range(n_permutations if turns is not None else 0), "turned maps", show=progress):
        assert turns is not None
        own = turns[rng.integers(_TURNS, size=len(names))]  # (n_genes, n_obs): each gene another turn
        drawn = _mean_correlation(values[own.T, np.arange(len(names))], groups)
        turned.append(_mean_size(drawn))
        if measured is not None:
            turned_mantel.append(mantel(drawn, measured, 0, rng)[0])
    r, p = (np.nan, np.nan) if measured is None else mantel(predicted, measured, n_permutations, rng)
    distance = np.clip(1 - np.nan_to_num(predicted), 0, None)  # nothing is known of a pair: as far as unrelated ones
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), method="average")
    modules = _modules(tree, distance, n_modules)
    summary = pd.Series(
        {
            "n_genes": len(names), "n_left_out": int((~varies).sum()), "n_sections": len(groups),
            "mean_predicted": _mean_size(predicted), "mean_measured": np.nan if measured is None else _mean_size(measured),
            "mean_turned": np.mean(turned) if turned else np.nan, "mantel": r, "p_mantel": p,
            "mantel_turned": np.mean(turned_mantel) if turned_mantel else np.nan,
            "p_turned": (1 + np.sum(np.array(turned_mantel) >= r)) / (1 + len(turned_mantel)) if turned_mantel else np.nan,
        },
        dtype=object,
    )  # fmt: skip
    return ModuleCorrelation(
        pd.DataFrame(predicted, names, names),
        None if measured is None else pd.DataFrame(measured, names, names),
        pd.Series(modules, names, name="module"), tree, summary,
    )  # fmt: skip


def mantel(one: np.ndarray, other: np.ndarray, n_permutations: int, rng: np.random.Generator) -> tuple[float, float]:
    """Correlation of two symmetric matrices over pairs that both know, and its one-sided p when names are permuted."""
    upper = np.triu_indices(len(one), 1)
    known = np.isfinite(one) & np.isfinite(other)
    other = np.where(known, other, np.nan)

    def r(order: np.ndarray) -> float:
        a, b = one[np.ix_(order, order)][upper], other[upper]
        both = np.isfinite(a) & np.isfinite(b)
        return float(np.corrcoef(a[both], b[both])[0, 1]) if both.sum() > _FEWEST else float("nan")

    found = r(np.arange(len(one)))
    drawn = np.array([r(rng.permutation(len(one))) for _ in range(n_permutations)])
    return found, (1 + int((drawn >= found).sum())) / (1 + n_permutations)


def _varying(values: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Columns that vary in a section, by more than rounding."""
    varies = np.zeros(values.shape[1], dtype=bool)
    for rows in groups:
        varies |= values[rows].std(axis=0) > 1e-9 * np.abs(values[rows]).max(axis=0)
    return varies


def _mean_correlation(values: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Correlation of columns, the mean of Fisher's z over sections; NaN for pairs that no section knows."""
    total, n = np.zeros((2, values.shape[1], values.shape[1]))
    for rows in groups:
        centered = values[rows] - values[rows].mean(axis=0)
        norm = np.sqrt((centered**2).sum(axis=0))
        known = norm > 1e-9 * np.sqrt(len(rows)) * np.abs(values[rows]).max(axis=0)  # NaN is not known
        standard = np.where(known, centered, 0) / np.where(known, norm, 1)
        total += np.arctanh(np.clip(standard.T @ standard, -_LARGEST, _LARGEST))
        n += np.outer(known, known)
    with np.errstate(invalid="ignore"):
        mean = np.tanh(total / n)
    np.fill_diagonal(mean, 1)
    return mean


def _mean_size(matrix: np.ndarray) -> float:
    return float(np.nanmean(np.abs(matrix[np.triu_indices(len(matrix), 1)])))


def _modules(tree: np.ndarray, distance: np.ndarray, n_modules: int | None) -> Any:
    """Modules from 1 on, larger ones first."""
    from scipy.cluster.hierarchy import fcluster
    from sklearn.metrics import silhouette_score

    n = len(distance)
    if n_modules is not None and not 1 <= n_modules <= n:
        raise ValueError(f"expected n_modules from 1 to the number of genes, {n}; found {n_modules}")
    if n_modules is None:
        cuts = [fcluster(tree, number, "maxclust") for number in range(2, min(_MOST_MODULES, n - 1) + 1)]
        cuts = [cut for cut in cuts if 1 < len(np.unique(cut)) < n]
        label = (
            max(cuts, key=lambda cut: silhouette_score(distance, cut, metric="precomputed"))
            if cuts
            else np.ones(n, int)
        )
    else:
        label = fcluster(tree, n_modules, "maxclust")
    found, first, count = np.unique(label, return_index=True, return_counts=True)
    order = np.lexsort((first, -count))
    place = np.empty(len(found), dtype=np.int64)
    place[order] = np.arange(1, len(found) + 1)
    return place[np.searchsorted(found, label)]
