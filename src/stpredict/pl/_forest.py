"""Hazard ratios with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import few
from stpredict.pl._finished import finished
from stpredict.pl._style import BLUE, GRAY, INK, one_panel, style
from stpredict.slots._marks import mark_words

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_NEEDED = ("term", "level", "hazard_ratio", "low", "high", "p")


@finished
def forest(table: pd.DataFrame, *, alone: bool = True, ax: Axes | None = None) -> Axes:
    """Draw the hazard ratios of a risk and of covariates, adjusted for each other, and each by itself.

    Parameters
    ----------
    table
        Table of :func:`stpredict.tl.hazard_ratios`.
    alone
        Whether to draw the hazard ratio of each covariate by itself, in gray below.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes, hazard ratios on a log scale. Terms whose fit has no answer keep their row, without a dot.

    Raises
    ------
    KeyError
        When the table lacks a column.
    ValueError
        When no hazard ratio is defined.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame(
    ...     {"patient": np.arange(80), "risk": rng.normal(size=80), "er": rng.choice(["neg", "pos"], 80)}
    ... )
    >>> obs["time"], obs["event"] = rng.exponential(np.exp(-obs["risk"])), rng.random(80) < 0.7
    >>> table = stp.tl.hazard_ratios(ad.AnnData(obs=obs.set_index("s" + obs["patient"].astype(str))), "er")
    >>> stp.pl.forest(table).get_xlabel()
    'hazard ratio (log scale)'
    """
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise KeyError(f"expected the table of stp.tl.hazard_ratios; found one without {few(missing)}")
    if not table["hazard_ratio"].notna().any():
        raise ValueError("expected a hazard ratio; found none that is defined: the fits had no answer")
    alone = alone and "hazard_ratio_alone" in table
    place = np.arange(len(table), dtype=float)
    with style():
        ax = one_panel(ax, 6.4, max(1.5, 0.42 * len(table) + 0.9))
        ax.set_xscale("log")
        ax.axvline(1, color=INK, lw=0.6, zorder=0)
        sides = [("together", "", BLUE, -0.12 if alone else 0.0)] + ([("alone", "_alone", GRAY, 0.18)] if alone else [])
        for label, end, color, shift in sides:
            ax.hlines(place + shift, table[f"low{end}"], table[f"high{end}"], color=color, lw=1.4)
            ax.plot(table[f"hazard_ratio{end}"], place + shift, ls="", marker="s", ms=4.5, color=color, label=label)
        for row, y in zip(table.itertuples(), place, strict=True):
            ax.annotate(
                _words(row),
                (1.02, y),
                xycoords=("axes fraction", "data"),
                ha="left",
                va="center",
                fontsize=8,
                color=INK,
            )
        ax.set_yticks(place, [f"{term}\n{level}" for term, level in zip(table["term"], table["level"], strict=True)])
        ax.set_ylim(len(table) - 0.5, -0.6)
        ax.tick_params(axis="y", length=0)
        _plain_ticks(ax)
        ax.set_xlabel("hazard ratio (log scale)")
        facts = table.attrs
        if "n_patients" in facts:
            told = mark_words(facts.get("leaky", False))
            ax.set_title(
                f"{facts['n_patients']} patients, {facts['n_events']} events{f' ({told})' if told else ''}", loc="left"
            )
        if alone:
            ax.legend(loc="lower left", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2, handletextpad=0.2)
    return ax


def _words(row: object) -> str:
    """Hazard ratio, interval and p in words."""
    ratio, low, high, p = (float(getattr(row, name)) for name in ("hazard_ratio", "low", "high", "p"))
    if not np.isfinite(ratio):
        return "no answer"
    return f"{ratio:.2f} ({low:.2f}–{high:.2f}), p {f'= {p:.2g}' if p >= 1e-4 else '< 0.0001'}"


def _plain_ticks(ax: Axes) -> None:
    """Ticks at 0.5, 1, 2 and the like within the limits, instead of powers of ten."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    low, high = ax.get_xlim()
    steps = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100])
    ax.xaxis.set_major_locator(FixedLocator(list(steps[(steps >= low) & (steps <= high)])))
    ax.xaxis.set_minor_locator(NullLocator())
    formatter = ScalarFormatter()
    formatter.set_scientific(False)
    ax.xaxis.set_major_formatter(formatter)
