"""How stable domains are at each resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.pl._finished import finished
from stpredict.pl._style import BLUE, GRAY, INK, LIGHT_GRAY, one_panel, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_NEEDED = ("resolution", "ari", "low", "high", "n_domains", "null_ari")


@finished
def domain_stability(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the agreement of repeated clusterings over resolutions, with the numbers of domains and what noise reaches.

    Parameters
    ----------
    table
        Table of :func:`stpredict.tl.domain_stability`.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes. Blue: mean over pairs of runs, with the 10 % and 90 % quantiles; numbers above are domains; gray: the same of
    noise; the band is the plateau, the ring the resolution that is suggested.

    Raises
    ------
    KeyError
        When the table lacks a column.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> table = pd.DataFrame(
    ...     {"resolution": [0.1, 0.5, 1.0], "ari": [0.9, 0.95, 0.6], "low": [0.8, 0.9, 0.4], "high": [1, 1, 0.7]}
    ... )
    >>> table["n_domains"], table["null_ari"] = [2, 4, 9], [0.2, 0.1, 0.1]
    >>> stp.pl.domain_stability(table).get_xlabel()
    'resolution of Leiden'
    """
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise KeyError(f"expected the table of stp.tl.domain_stability; found no column {', '.join(missing)}")
    x = table["resolution"].to_numpy(dtype=float)
    mean, low, high = (table[name].to_numpy(dtype=float) for name in ("ari", "low", "high"))
    with style():
        ax = one_panel(ax, 4.4, 2.8)
        ax.set_xscale("log")
        if (plateau := table.attrs.get("plateau")) is not None:
            step = np.sqrt(np.exp(np.diff(np.log(x)).mean())) if len(x) > 1 else 1.1
            ax.axvspan(
                plateau[0] / step, plateau[1] * step, color=LIGHT_GRAY, alpha=0.45, lw=0, zorder=0, label="plateau"
            )
        ax.plot(x, table["null_ari"], color=GRAY, lw=1.2, marker="s", ms=3, label="noise")
        ax.vlines(x, low, high, color=BLUE, lw=1.2)
        ax.plot(x, mean, color=BLUE, lw=1.4, marker="o", ms=4, label="mean of pairs of runs,\n10 % to 90 %")
        if (suggested := table.attrs.get("suggested")) is not None:
            at = int(np.argmin(np.abs(x - suggested)))
            ax.plot(x[at], mean[at], ls="", marker="o", ms=9, mfc="none", mec=INK, mew=1.2, label="suggested")
        for value, top, number in zip(x, high, table["n_domains"], strict=True):
            ax.annotate(
                f"{number:.0f}", (value, top), (0, 4), textcoords="offset points", ha="center", fontsize=7, color=BLUE
            )
        ax.set_xticks(x, [f"{value:g}" for value in x], fontsize=7, rotation=45 if len(x) > 7 else 0)
        ax.minorticks_off()
        ax.set_ylim(min(0.0, float(np.nanmin([*low, *table["null_ari"]]))) - 0.03, 1.1)
        ax.set_xlabel("resolution of Leiden")
        ax.set_ylabel("adjusted Rand index")
        ax.set_title("Stability of domains (numbers: domains)", loc="left")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3)
    return ax
