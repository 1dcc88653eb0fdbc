"""Genes ranked by their spatial autocorrelation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.pl._finished import finished
from stpredict.pl._style import BLUE, GRAY, VERMILION, one_panel, style
from stpredict.slots._checks import check_genes
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

_KEY = "moran_i"


@finished
def spatially_variable(
    data: Container,
    genes: Sequence[str] | None = None,
    *,
    n_genes: int = 25,
    selected_key: str = Key.SELECTED,
    ax: Axes | None = None,
    table_key: str = Key.TABLE,
) -> Axes:
    """Rank genes by Moran's I :cite:p:`moran1950`: median over sections, and range from the lowest to the highest.

    Parameters
    ----------
    data
        AnnData, or SpatialData whose table is used, with `varm["moran_i"]`.
    genes
        Genes to show; the `n_genes` with the highest median by default.
    n_genes
        Number of genes to show when `genes` is `None`.
    selected_key
        Column of `var` with the selected genes, which are filled; the threshold of a selection by Moran's I is drawn
        as a line.
    ax
        Axes to draw into; those of a new figure by default.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The axes, the gene with the highest median on top.

    Raises
    ------
    KeyError
        When `varm["moran_i"]` or a gene is missing.
    ValueError
        When no gene was tested.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 2, 10, n_spots=40)
    >>> stp.pp.normalize(adata)
    >>> stp.pp.spatially_variable(adata)
    >>> ax = stp.pl.spatially_variable(adata, n_genes=5)
    >>> len(ax.get_yticklabels())
    5
    """
    import pandas as pd

    adata = get_table(data, table_key, measured=True)
    if _KEY not in adata.varm:
        raise KeyError(
            f"expected varm[{_KEY!r}]; found {sorted(adata.varm)}; run stp.pp.spatially_variable(adata) first"
        )
    if n_genes < 1:
        raise ValueError(f"expected n_genes to be at least 1; found {n_genes}")
    table = adata.varm[_KEY]
    values = pd.DataFrame(np.asarray(table, dtype=float), index=adata.var_names)
    if genes is not None:
        names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
        check_genes(adata, names)
        values = values.loc[names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # genes that were not tested: the median of nothing
        median = values.median(axis=1)
    if not median.notna().any():
        raise ValueError(f"expected Moran's I of at least one gene; found NaN only in varm[{_KEY!r}]")
    median = median.dropna().sort_values(ascending=False, kind="stable")
    median = median if genes is not None else median.iloc[:n_genes]
    values = values.loc[median.index]
    selected = adata.var[selected_key].astype(bool) if selected_key in adata.var else None
    threshold = _threshold(adata, selected_key)

    with style():
        ax = one_panel(ax, 4.8, max(1.6, 0.17 * len(median) + 0.7))
        place = np.arange(len(median))
        if values.shape[1] > 1:
            ax.hlines(place, values.min(axis=1), values.max(axis=1), color=GRAY, lw=1)
        if selected is None:
            ax.plot(median, place, ls="", marker="o", ms=5, color=BLUE)
        else:
            chosen = selected.loc[median.index].to_numpy()
            for mask, fill, label in ((chosen, BLUE, "selected"), (~chosen, "white", "not selected")):
                if mask.any():
                    ax.plot(median[mask], place[mask], ls="", marker="o", ms=5, mec=BLUE, mfc=fill, label=label)
        if threshold is not None:
            ax.axvline(
                threshold,
                color=VERMILION,
                lw=1,
                ls=(0, (4, 3)),
                zorder=0,
                label=f"threshold of the\nselection, {threshold:g}",
            )
        ax.set_yticks(place, [str(gene) for gene in median.index], fontstyle="italic")
        ax.set_ylim(len(median) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", color="#EEEEEE", lw=0.6)
        ax.set_axisbelow(True)
        n = values.shape[1]
        ax.set_xlabel("Moran's I" if n == 1 else f"Moran's I (median and range of {n} sections)")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.4, borderaxespad=0.3)
    return ax


def _threshold(adata: AnnData, key: str) -> float | None:
    """Smallest Moran's I of a selected gene, where the selection had such a threshold."""
    record = read_record(adata, key) or {}
    return float(record["min_i"]) if record.get("method") == "moran" and "min_i" in record else None
