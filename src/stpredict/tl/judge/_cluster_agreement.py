"""Whether clusters of one kind follow labels or a score of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._compact import compact
from stpredict.core._validate import check_choice, check_finite
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._container import get_table
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of
from stpredict.tl.judge._spatial_null import Null, displaced

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container

_SHOWN = ("sample", "against", "measure", "value", "null_mean", "null_high", "p", "n_obs", "n_clusters")


def cluster_agreement(
    data: Container,
    clusters: str = Key.DOMAIN,
    against: str | Sequence[str] = "cnv_score",
    *,
    null: Null = "rotation",
    n_permutations: int = 200,
    min_observations: int = 20,
    sample_key: str = Key.SAMPLE,
    spatial_key: str = Key.SPATIAL,
    seed: int = 0,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Compare clusters with labels (adjusted Rand index) or a score (eta squared), per section and against chance.

    Eta squared is the share of the score's variance that lies between clusters. It grows with the number of clusters,
    and two smooth maps agree to some degree whatever they show: read the value beside `null_mean` and `p`.

    Parameters
    ----------
    data
        AnnData or SpatialData with clusters and with labels or scores in `obs`.
    clusters
        Column of `obs` with the clusters, for example of :func:`stpredict.tl.domains` on predicted expression.
    against
        Column, or columns, of `obs`: labels (categories, text or boolean) such as `"cnv_cluster"`, or a score
        (numbers) such as `"cnv_score"` of :func:`stpredict.tl.cnv`.
    null
        Null model, which moves clusters over the section: `"rotation"` turns (and mirrors) their map, so that patches
        remain patches; `"shuffle"` exchanges them among observations, which any smooth map beats.
    n_permutations
        Number of draws from the null.
    min_observations
        Smallest number of observations of a section; the values of smaller sections are NaN.
    sample_key
        Column of `obs` that names the section.
    spatial_key
        Slot of the positions in `obsm`, for `"rotation"`.
    seed
        Random seed for the null model.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per section and column of `against`: `sample`, `against`, `measure` (`"ari"` :cite:p:`hubert1985` or
    `"eta2"`), `value`, `null_mean`, `null_high` (95 % of the null is below), `p` (share of the null that reaches the
    value, counting the value itself), `n_obs` (with cluster and label or score, on tissue), `n_clusters`. All but the
    counts are NaN where there is a single cluster, a single label or a constant score: leave these out and say how many
    they are. Nothing is written to `data`.

    Raises
    ------
    KeyError
        When a column or the positions are missing.
    ValueError
        When an option is out of range.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> x, y = np.mgrid[:8, :8].reshape(2, -1)
    >>> adata = ad.AnnData(obs=pd.DataFrame({"sample": "s", "cnv_score": x * 1.0}, index=[f"o{i}" for i in range(64)]))
    >>> adata.obs["domain"], adata.obsm["spatial"] = pd.Categorical(x // 4), np.column_stack([x, y])
    >>> stp.tl.cluster_agreement(adata)[["measure", "value"]].round(2).values.tolist()
    [['eta2', 0.76]]
    """
    import pandas as pd

    adata = get_table(data, table_key, clusters)
    columns = [against] if isinstance(against, str) else list(against)
    for name in (clusters, *columns):
        check_obs(adata, name, "write it with stp.tl.domains or stp.tl.cnv, or name another column")
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    check_choice(null, ("rotation", "shuffle"), "null")
    if n_permutations < 1 or min_observations < 2:
        raise ValueError(
            f"expected at least one permutation and two observations; found n_permutations={n_permutations} and "
            f"min_observations={min_observations}"
        )
    xy = None
    if null == "rotation":
        check_obsm(adata, spatial_key, "write the positions there, or pass null='shuffle'")
        xy = positions_of(adata, spatial_key)
        check_finite(xy, f"positions in obsm[{spatial_key!r}]", "correct them, or pass null='shuffle'")
    group = _codes(adata.obs[clusters])
    sample = adata.obs[sample_key].astype(str).to_numpy()
    tissue = in_tissue(adata)
    rows = []
    for column in columns:
        values = adata.obs[column]
        scored = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        compared: np.ndarray = values.to_numpy(dtype=np.float64) if scored else _codes(values)
        has_value = np.isfinite(compared) if scored else compared >= 0
        for name in pd.unique(sample[tissue]):
            # One stream per section: neither the other sections nor the other columns change it.
            rng = np.random.default_rng([seed, *str(name).encode()])
            section_rows = np.flatnonzero((sample == name) & tissue & has_value & (group >= 0))
            _, label = np.unique(group[section_rows], return_inverse=True)
            entry: dict[str, Any] = {"sample": name, "against": column, "measure": "eta2" if scored else "ari"}
            entry |= dict.fromkeys(("value", "null_mean", "null_high", "p"), np.nan)
            entry |= {"n_obs": len(section_rows), "n_clusters": len(np.unique(label))}
            rows.append(entry)
            if (
                len(section_rows) < min_observations
                or len(np.unique(label)) < 2
                or len(np.unique(compared[section_rows])) < 2
            ):
                continue
            section = np.zeros(len(section_rows), dtype=np.int64)
            moved = label[displaced(section, None if xy is None else xy[section_rows], n_permutations, null, rng)]
            drawn = np.concatenate([label[None], moved])
            agreement = (
                eta_squared(drawn, compared[section_rows]) if scored else adjusted_rand(drawn, compared[section_rows])
            )
            value, chance = agreement[0], agreement[1:]
            reached = (chance >= value - 1e-12).sum()
            entry |= {
                "value": value,
                "null_mean": chance.mean(),
                "null_high": np.quantile(chance, 0.95),
                "p": (1 + reached) / (1 + n_permutations),
            }
    if not rows:
        raise ValueError("expected at least one observation on tissue; found none")
    return compact(pd.DataFrame(rows), _SHOWN, move=False)


def _codes(column: pd.Series) -> np.ndarray:
    """Number of each observation's category (n_obs,), -1 where there is none."""
    import pandas as pd

    return pd.factorize(column.astype(object).where(column.notna(), None))[0].astype(np.int64)


def contingency_tables(clusters: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Sum over observations for each draw, cluster and label: (n_draws, n_clusters, n_labels)."""
    n_draws, n_clusters, n_labels = len(clusters), int(clusters.max()) + 1, int(labels.max()) + 1
    cell = (np.arange(n_draws)[:, None] * n_clusters + clusters) * n_labels + labels
    weight = None if weights is None else np.broadcast_to(weights, clusters.shape).ravel()
    counts = np.bincount(cell.ravel(), weights=weight, minlength=n_draws * n_clusters * n_labels)
    return counts.reshape(n_draws, n_clusters, n_labels)


def adjusted_rand(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Adjusted Rand index of each row of clusters (n_draws, n) with labels (n,), codes from 0."""
    labels = np.unique(labels, return_inverse=True)[1]
    table = contingency_tables(clusters, labels).astype(np.float64)

    def pairs(counts: np.ndarray) -> np.ndarray:
        return counts * (counts - 1) / 2

    both = pairs(table).sum(axis=(1, 2))
    first, second = pairs(table.sum(axis=2)).sum(axis=1), pairs(table.sum(axis=1)).sum(axis=1)
    expected = first * second / pairs(np.array(float(len(labels))))
    span = (first + second) / 2 - expected
    # A turned map may leave a single cluster: no agreement.
    return np.divide(both - expected, span, out=np.zeros(len(both)), where=span > 0)


def eta_squared(clusters: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Share of the variance of a score (n,) between the clusters of each row (n_draws, n), codes from 0."""
    centered = score - score.mean()
    none = np.zeros(len(score), dtype=np.int64)
    size, total = (contingency_tables(clusters, none, w)[:, :, 0] for w in (None, centered))
    between = np.divide(total**2, size, out=np.zeros(total.shape), where=size > 0).sum(axis=1)
    squares = float(centered @ centered)
    return between / squares if squares > 0 else np.full(len(clusters), np.nan)
