"""Agreement of pathways beside that of random gene sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import few
from stpredict.pl._finished import finished
from stpredict.pl._style import BLUE, INK, LIGHT_GRAY, one_panel, style
from stpredict.pl._terms import shown_terms
from stpredict.slots._marks import mark_words, table_mark

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_NEEDED = ("pathway", "r", "r_low", "r_high", "null_mean", "null_high", "q")


@finished
def pathway_agreement(
    table: pd.DataFrame,
    *,
    n_pathways: int = 20,
    alpha: float = 0.05,
    ax: Axes | None = None,
) -> Axes:
    """Draw how well pathways are predicted, beside random gene sets of the same sizes and expression.

    Parameters
    ----------
    table
        Table of :func:`stpredict.tl.pathway_agreement`.
    n_pathways
        Number of pathways, those with the highest correlation.
    alpha
        False-discovery rate below which a pathway has a full dot: it agrees better than random sets.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes: a dot for the correlation, with its interval over patients where there are several, and a gray bar from the
    mean of the random sets to the value that 95 % of them stay below.

    Raises
    ------
    KeyError
        When the table lacks a column.
    ValueError
        When `n_pathways` is not positive, or no correlation is defined.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(2, 1, 40, n_spots=60)
    >>> stp.pp.normalize(adata)
    >>> adata.obsm["predicted"] = adata.to_df() + np.random.default_rng(0).normal(size=adata.shape)
    >>> sets = {"first": adata.var_names[:10], "last": adata.var_names[-10:]}
    >>> ax = stp.pl.pathway_agreement(stp.tl.pathway_agreement(adata, sets, n_random=20))
    >>> ax.get_xlabel()
    'correlation of scores'
    """
    from matplotlib.lines import Line2D

    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise KeyError(f"expected the table of stp.tl.pathway_agreement; found one without {few(missing)}")
    if n_pathways < 1:
        raise ValueError(f"expected n_pathways to be at least 1; found {n_pathways}")
    shown = table[table["r"].notna()].sort_values("r", ascending=False, kind="stable").head(n_pathways)
    if not len(shown):
        raise ValueError("expected a pathway with a correlation; found none that is defined")
    place = np.arange(len(shown))
    with style():
        ax = one_panel(ax, 7.2, max(1.6, 0.19 * len(shown) + 0.9))
        ax.axvline(0, color=INK, lw=0.6, zorder=0)
        ax.hlines(place, shown["null_mean"], shown["null_high"], color=LIGHT_GRAY, lw=6)
        ax.plot(shown["null_mean"], place, ls="", marker="|", ms=6, color=INK, mew=0.7)
        ax.hlines(place, shown["r_low"], shown["r_high"], color=BLUE, lw=1.2)
        better = (shown["q"] < alpha).to_numpy()
        for full in (True, False):
            here = better == full
            ax.plot(shown["r"][here], place[here], ls="", marker="o", ms=5, color=BLUE, mfc=BLUE if full else "white")
        ax.set_yticks(place, shown_terms(shown["pathway"].astype(str).tolist()))
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("correlation of scores")
        told = mark_words(table_mark(shown))
        ax.set_title(
            f"{int(better.sum())} of {len(shown)} better than random sets{f' ({told})' if told else ''}", loc="left"
        )
        handles = [
            Line2D([], [], ls="", marker="o", ms=5, color=BLUE, label=f"pathway, q < {alpha:g}"),
            Line2D([], [], ls="", marker="o", ms=5, color=BLUE, mfc="white", label=f"pathway, q ≥ {alpha:g}"),
            Line2D([], [], color=LIGHT_GRAY, lw=6, label="random sets,\nmean to 95 %"),
        ]
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3, handletextpad=0.4)
    return ax
