"""Over-represented gene sets of several lists, as dots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.pl._finished import finished
from stpredict.pl._style import INK, LIGHT_GRAY, VALUE_CMAP, one_panel, style
from stpredict.pl._terms import shown_representatives, shown_terms

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_NEEDED = ("list", "term", "hits", "size", "q", "representative")
_AREA = 150.0  # points² of the largest dot
_MOST = 20  # -log10 of the smallest q that colors tell apart
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # in the legend, the largest three that occur


@finished
def enrichment(
    table: pd.DataFrame,
    *,
    n_terms: int = 6,
    alpha: float = 0.05,
    merged: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw which gene sets are over-represented in which list: a row per set, a column per list.

    Parameters
    ----------
    table
        Table of :func:`stpredict.tl.enrich`.
    n_terms
        Number of terms of each list, the most significant ones; terms of one list are drawn for all of them.
    alpha
        False-discovery rate below which a term is chosen, and its dot has a rim.
    merged
        Whether to leave out terms for which another stands (column `representative`); "(+3)" says that a term stands for
        three more.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes. The area of a dot is the share of the set that the list hits, its color the false-discovery rate; a dark
    rim marks those below `alpha`.

    Raises
    ------
    KeyError
        When the table lacks a column.
    ValueError
        When no term is below `alpha`, or `n_terms` is not positive.

    Examples
    --------
    >>> import stpredict as stp
    >>> background = [f"G{i}" for i in range(100)]
    >>> sets = {"first": background[:10], "last": background[-10:]}
    >>> lists = {"a": background[:8], "b": background[92:]}
    >>> ax = stp.pl.enrichment(stp.tl.enrich(lists, sets, background=background))
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['first', 'last']
    """
    from matplotlib.lines import Line2D

    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise KeyError(f"expected the table of stp.tl.enrich; found one without {few(missing)}")
    if n_terms < 1:
        raise ValueError(f"expected n_terms to be at least 1; found {n_terms}")
    chosen = table[table["q"] < alpha]
    if merged:
        # Terms for which one stands whose q was above the level of the table stand for themselves.
        chosen = chosen[chosen["representative"].isna() | (chosen["representative"] == chosen["term"])]
    chosen = chosen.sort_values("q", kind="stable").groupby("list", sort=False, observed=True).head(n_terms)
    if not len(chosen):
        raise ValueError(
            f"expected a term with q < {alpha:g}; found none (the smallest is {table['q'].min():.2g}): nothing is "
            "over-represented in these lists; raise `alpha` to look at what is nearest"
        )
    lists = list(dict.fromkeys(table["list"]))
    order = {name: number for number, name in enumerate(lists)}
    terms = list(dict.fromkeys(chosen.sort_values("list", key=lambda names: names.map(order), kind="stable")["term"]))
    shown = table[table["term"].isin(terms) & (table["hits"] > 0)].sort_values("q", ascending=False)
    with style():
        ax = one_panel(ax, 3.6 + 0.42 * len(lists), max(1.7, 0.24 * len(terms) + 1.1))
        x, y = shown["list"].map(order), shown["term"].map({term: row for row, term in enumerate(terms)})
        share = (shown["hits"] / shown["size"]).to_numpy()
        with np.errstate(divide="ignore"):
            color = np.minimum(-np.log10(shown["q"].to_numpy()), _MOST)
        below = (shown["q"] < alpha).to_numpy()
        dots = ax.scatter(
            x, y, s=_AREA * share / share.max(), c=color, cmap=VALUE_CMAP + "_r", vmin=0, linewidths=np.where(below, 0.9, 0.3).tolist(),
            edgecolors=np.where(below, INK, LIGHT_GRAY).tolist(), zorder=2,
        )  # fmt: skip
        ax.set_xticks(range(len(lists)), lists, **_turned(lists))
        ax.set_yticks(range(len(terms)), shown_representatives(table, terms) if merged else shown_terms(terms))
        ax.set_xlim(-0.6, len(lists) - 0.4)
        ax.set_ylim(len(terms) - 0.4, -0.6)
        ax.tick_params(length=0)
        ax.grid(color=LIGHT_GRAY, lw=0.4, zorder=0)
        ax.set_axisbelow(True)
        bar: Any = ax.figure.colorbar(
            dots, ax=ax, shrink=min(1.0, 1.6 / (0.24 * len(terms) + 1.1)), aspect=12, pad=0.03
        )
        bar.set_label("−log10 q", fontsize=8)
        bar.outline.set_visible(False)
        handles = [
            Line2D(
                [],
                [],
                ls="",
                marker="o",
                ms=(_AREA * size / share.max()) ** 0.5,
                color=LIGHT_GRAY,
                mec=INK,
                mew=0.3,
                label=f"{size:.0%}",
            )
            for size in [one for one in _SHARES if one <= 1.05 * share.max()][-3:]
        ]
        ax.legend(
            handles=handles, title="of the set", ncols=len(handles), loc="lower center", bbox_to_anchor=(0.5, 1.0),
            handletextpad=0.1, columnspacing=0.8, borderaxespad=0.2, title_fontsize=8,
        )  # fmt: skip
    return ax


def _turned(labels: list[str]) -> dict[str, Any]:
    """Long labels stand aslant."""
    return {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, labels)) > 3 else {}
