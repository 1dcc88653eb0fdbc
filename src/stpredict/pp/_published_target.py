"""Targets as parts of the literature have them: size factors of the panel, and values smoothed over neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_choice
from stpredict.metrics._log_normalize import log_normalize
from stpredict.slots._checks import check_genes, check_layer, check_obs
from stpredict.slots._container import begin
from stpredict.slots._expression import matrix_of, measured_rows
from stpredict.slots._keys import Key, check_key
from stpredict.slots._matrix import numeric_matrix
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from stpredict.slots._container import Container

#: Habits that change the target.
TARGET_HABITS = ("panel", "smoothed")
#: One more of each gene before the library size is taken.
PLUS_ONE = "plus_one"
_PER_MILLION = 1e6
_TARGET_SUM = 1e4
_BESIDE = 1.01  # lattice steps


def published_target(
    data: Container,
    habits: Sequence[str] = TARGET_HABITS,
    *,
    panel: Sequence[str] | None = None,
    key_added: str = "published",
    sample_key: str = Key.SAMPLE,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Write the target that a part of the literature trains on and scores, for comparison with its numbers only.

    Both habits make scores higher without a better model: a library size of a small panel puts more of the depth of a spot
    into every gene, and an average over neighbors is easier to predict than a measurement.

    Parameters
    ----------
    data
        AnnData or SpatialData with expression in `X` (n_obs, n_genes), and counts in `layers["counts"]` for `"panel"`.
    habits
        `"panel"`: log1p of counts per 10,000 of the genes of `panel`, instead of what `X` holds. `"smoothed"`: the mean over
        the observation and those beside it on the array, 3 × 3 of them on a square lattice, 7 on a hexagonal one. `"plus_one"`,
        instead of `"panel"`: the natural logarithm of counts and one, per million of these over all genes of the object, as
        `"igi_dl"` was published with; shallow spots are drawn towards what is the same of all genes.
    panel
        Genes whose counts make the library size; all genes of the object when `None`.
    key_added
        Layer to write.
    sample_key
        Column of `obs` with the section.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes `layers[key_added]` (n_obs, n_genes), float32, of all genes; name it as the target with
    `stp.targets.Expression(layer="published")`. Tables of scores then have a column `layer` that says so. Observations that
    were not measured keep `NaN` or 0 and take no part in an average.

    Raises
    ------
    KeyError
        When `layers["counts"]`, `obs["array_row"]`, `obs["array_col"]` or a gene of the panel is missing.
    ValueError
        When a habit is unknown, two are of the library size, or a position on the array is not known.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_genes=5, n_spots=30)
    >>> stp.pp.normalize(adata, method="log1p")
    >>> stp.pp.published_target(adata, ["smoothed"])
    >>> bool(adata.layers["published"].std() < adata.X.toarray().std())
    True
    """
    check_key(key_added)
    container, adata = begin(data, copy, table_key)
    genes = list(adata.var_names) if panel is None else [str(gene) for gene in panel]
    check_genes(adata, genes)
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    sample = adata.obs[sample_key].astype(str).to_numpy()
    values = np.zeros(adata.shape, dtype=np.float32)
    for name in np.unique(sample):
        rows = np.flatnonzero(sample == name)
        values[rows] = section_target(adata, rows, slice(None), habits, genes)
    adata.layers[key_added] = values
    write_record(adata, key_added, {"habits": list(habits), "panel": panel})
    return container if copy else None


def section_target(
    adata: AnnData, rows: np.ndarray, columns: Any, habits: Sequence[str], panel: Sequence[str]
) -> np.ndarray:
    """Values (n, n_genes) float32 of the genes of some columns, for all rows of one section."""
    for habit in habits:
        check_choice(habit, (*TARGET_HABITS, PLUS_ONE), "habits")
    if {"panel", PLUS_ONE} & set(habits):
        if {"panel", PLUS_ONE} <= set(habits):
            raise ValueError("expected one library size among the habits; found 'panel' and 'plus_one'; leave one out")
        check_layer(adata, Key.COUNTS, "run stp.pp.normalize(adata), which keeps the counts")
        counts = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")[rows]
        if PLUS_ONE in habits:
            values = log_plus_one(counts[:, columns], counts)
        else:
            own = counts[:, adata.var_names.get_indexer(list(panel))]
            totals = np.asarray(own.sum(axis=1, dtype=np.float64)).ravel()
            values = log_normalize(counts[:, columns].astype(np.float32), totals, _TARGET_SUM)
    else:
        values = matrix_of(adata, None)[rows][:, columns]
    values = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float32)
    if "smoothed" not in habits:
        return values
    measured = measured_rows(adata, matrix_of(adata, None))[rows]
    smoothed = values.copy()
    weights = _beside(adata, rows[measured])
    smoothed[measured] = (weights @ values[measured]) / np.asarray(weights.sum(axis=1)).reshape(-1, 1)
    return smoothed


def log_plus_one(chosen: Any, counts: Any) -> np.ndarray:
    """Logarithms (n, g) of some counts and one, per million of the counts (n, n_genes) and one of all genes."""
    chosen = np.asarray(chosen.toarray() if hasattr(chosen, "toarray") else chosen, dtype=np.float64)
    total = np.asarray(counts.sum(axis=1, dtype=np.float64)).reshape(-1, 1) + counts.shape[1]
    return np.log((chosen + 1) / total * _PER_MILLION)


def _beside(adata: AnnData, rows: np.ndarray) -> csr_matrix:
    """Weights (n, n): 1 for each observation itself and those beside it on the array."""
    import pandas as pd
    from scipy.sparse import csr_matrix
    from scipy.spatial import cKDTree

    for key in (Key.ARRAY_ROW, Key.ARRAY_COL):
        check_obs(adata, key, "smoothing over 3 × 3 goes by the position on the array")
    places = [pd.to_numeric(adata.obs[key].iloc[rows], errors="coerce") for key in (Key.ARRAY_ROW, Key.ARRAY_COL)]
    place = np.column_stack([column.to_numpy(dtype=np.float64, na_value=np.nan) for column in places])
    if not np.isfinite(place).all():
        raise ValueError(
            f"expected a position on the array for every measured observation; found {int((~np.isfinite(place)).any(axis=1).sum())} "
            "without; leave them out, or leave out the habit 'smoothed'"
        )
    place = np.rint(place)
    if len(place) > 1 and len(np.unique(place.sum(axis=1) % 2)) == 1:  # hexagonal: every other column of a row
        place[:, 1] /= 2
    pairs = cKDTree(place).query_pairs(_BESIDE, p=np.inf, output_type="ndarray")
    n = len(place)
    index = np.concatenate([pairs, pairs[:, ::-1], np.column_stack([np.arange(n)] * 2)])
    return csr_matrix((np.ones(len(index), dtype=np.float32), (index[:, 0], index[:, 1])), shape=(n, n))
