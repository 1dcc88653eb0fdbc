"""Differences between models with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.pl._finished import finished
from stpredict.pl._metric_names import metric_name
from stpredict.pl._style import BLUE, GRAY, INK, one_panel, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@finished
def compare_models(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the difference of each pair of models with its interval; blue where the test says that there is one.

    Parameters
    ----------
    table
        Table of :func:`stpredict.tl.compare_models`.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes: a line per pair, the difference as a dot, its interval over patients as a bar, the adjusted p-value and the number
    of patients at the right.

    Raises
    ------
    KeyError
        When a column is missing.
    ValueError
        When the table is empty.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> scores = pd.DataFrame({"sample": list("abcd") * 2, "patient": list("pqrs") * 2, "gene": "G"})
    >>> scores["model"], scores["pearson"] = ["net"] * 4 + ["ridge"] * 4, [0.5, 0.4, 0.6, 0.5, 0.3, 0.1, 0.4, 0.3]
    >>> ax = stp.pl.compare_models(stp.tl.compare_models(scores))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['net − ridge']
    """
    needed = ["model", "reference", "difference", "low", "high", "p_adjusted", "n_units", "over"]
    missing = [name for name in needed if name not in table]
    if missing:
        raise KeyError(f"expected the table of stp.tl.compare_models; missing {missing}")
    if not len(table):
        raise ValueError("expected at least one pair of models; found none")
    alpha, level = table.attrs.get("alpha", 0.05), table.attrs.get("level", 0.95)
    with style():
        ax = one_panel(ax, 4.6, 0.9 + 0.28 * len(table))
        ax.axvline(0, color=INK, lw=0.7, zorder=0)
        for position, (_, row) in enumerate(table.iterrows()):
            color = BLUE if row["p_adjusted"] < alpha else GRAY
            ax.plot([row["low"], row["high"]], [position] * 2, color=color, lw=2, solid_capstyle="butt")
            ax.plot(row["difference"], position, "o", color=color, ms=5)
            told = "too few" if np.isnan(row["p_adjusted"]) else f"p {_p_value(row['p_adjusted'])}"
            ax.annotate(
                f"{told}, {row['n_units']} {row['over']}", (1.02, position), xycoords=("axes fraction", "data"), va="center",
                fontsize=8, color=color if color == BLUE else INK,
            )  # fmt: skip
        ax.set_yticks(
            range(len(table)), [f"{a} − {b}" for a, b in zip(table["model"], table["reference"], strict=True)]
        )
        ax.set_ylim(len(table) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        metric = metric_name(str(table.attrs.get("metric", "score")))
        ax.set_xlabel(f"difference in {metric}, {level:.0%} interval")
        if (table["p_adjusted"] < alpha).any():
            ax.set_title(f"blue: p < {alpha:g}, adjusted", loc="left", fontsize=8, color=BLUE)
    return ax


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
