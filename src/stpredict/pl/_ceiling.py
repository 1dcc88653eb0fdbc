"""Correlation of every gene against the most that counting noise allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.pl._finished import figure_of, finished
from stpredict.pl._style import BLUE, GRAY, INK, one_panel, style
from stpredict.slots._marks import joint_mark, mark_words
from stpredict.slots._score_tables import check_scores, gene_means, model_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_N_LABELED = 8
_LINE = 1.35  # height of a line over the font size
_FONT = 7.5


@finished
def ceiling(scores: pd.DataFrame, *, model: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the correlation of each gene against its noise ceiling, and name the eight best genes.

    A gene on the diagonal is predicted as well as its counting noise allows; a gene far below it could be predicted
    better; a gene with a low ceiling says little about any model. The noise ceiling is that of
    :func:`stpredict.metrics.noise_ceiling`.

    Parameters
    ----------
    scores
        Table of :func:`stpredict.tl.evaluate` or :func:`stpredict.tl.cross_validate` with `ceiling=True`.
    model
        Model to show; when `None`, the one with the highest mean correlation that is not a baseline.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes. A point is a gene, its mean over sections, then over patients, where both values are defined; how many
    have none is written in the title.

    Raises
    ------
    KeyError
        When the table has no noise ceiling, or no such model.
    TypeError
        When `scores` is no table.
    ValueError
        When no gene has both values.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> table = pd.DataFrame({"model": "ridge", "sample": "s1", "patient": "p1", "gene": list("ABCD")})
    >>> table["pearson"], table["ceiling"] = [0.1, 0.3, 0.4, 0.2], [0.5, 0.6, 0.7, 0.3]
    >>> ax = stp.pl.ceiling(table)
    >>> print(ax.get_title(loc="left"))
    ridge
    mean r / mean ceiling = 0.25 / 0.53
    """
    check_scores(scores, ["model", "sample", "patient", "gene", "pearson"])
    if "ceiling" not in scores:
        raise KeyError(
            f"expected a column 'ceiling'; found {list(scores.columns)}; run stp.tl.evaluate(adata, ceiling=True) on "
            "data with layers['counts']"
        )
    name = model_of(scores, model)
    table = scores[scores["model"].astype(str) == name]
    complete = table.dropna(subset=["pearson", "ceiling"])
    if not len(complete):
        raise ValueError(f"expected genes of model {name!r} with a correlation and a noise ceiling; found none")
    top = gene_means(complete, "ceiling", ["model"]).droplevel(0)
    r = gene_means(complete, "pearson", ["model"]).droplevel(0).reindex(top.index)
    n_missing = table["gene"].nunique() - len(r)
    leaky = mark_words(joint_mark(table["leaky"])) if "leaky" in table else ""

    with style():
        ax = one_panel(ax, 3.8, 3.8)
        low = min(0.0, float(r.min()), float(top.min())) - 0.05
        high = max(float(r.max()), float(top.max())) + 0.08
        ax.plot([low, high], [low, high], color=GRAY, lw=0.8, ls=(0, (4, 3)), zorder=0)
        ax.axhline(0, color=INK, lw=0.6, zorder=0)
        many = len(r) > 300
        ax.plot(
            top,
            r,
            ls="",
            marker="o",
            ms=3 if many else 4.5,
            mec="white",
            mew=0.3,
            color=BLUE,
            alpha=0.6 if many else 0.8,
        )
        ax.set_xlim(low, high)
        ax.set_ylim(low, high)
        ax.set_aspect("equal")
        ax.set_xlabel("noise ceiling per gene")
        ax.set_ylabel("Pearson's r per gene")
        ratio = f"mean r / mean ceiling = {r.mean():.2f} / {top.mean():.2f}"
        undefined = f"\n{n_missing} of {n_missing + len(r)} genes undefined" if n_missing else ""
        ax.set_title(f"{name}{f' ({leaky})' if leaky else ''}\n{ratio}{undefined}", loc="left")
        label_best(ax, top.to_numpy(), r.to_numpy(), [str(gene) for gene in r.index])
    return ax


def label_best(ax: Axes, x: np.ndarray, y: np.ndarray, names: list[str], others: np.ndarray | None = None) -> None:
    """Name the best genes in a column at the left, above the cloud, each with a line to its point.

    The cloud are the points `x`, `y` and the `others` (m, 2), which are drawn and not named.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    best = np.argsort(-y, kind="stable")[:_N_LABELED]
    best = best[np.argsort(y[best], kind="stable")]
    figure = figure_of(ax)
    figure.draw_without_rendering()  # the size of the panel is known only after the layout
    scale = 72 / figure.dpi
    own = np.column_stack([x, y])
    points = ax.transData.transform(own[best]) * scale
    everyone = ax.transData.transform(own if others is None else np.vstack([own, others])) * scale
    left, bottom, _, top = np.array(ax.get_window_extent().extents) * scale
    italic = FontProperties(style="italic", size=_FONT)
    longest = max(TextPath((0, 0), names[i], prop=italic).get_extents().width for i in best)
    edge = left + longest + _FONT  # of the names, which would be on the axis otherwise
    # Above the cloud under the names, as far as there is room.
    under = everyone[everyone[:, 0] < edge + _FONT, 1]
    low = min(max(under.max(initial=bottom), bottom) + _FONT, top - _FONT - _LINE * _FONT * (len(best) - 1))
    heights = spread(points[:, 1], _LINE * _FONT, max(low, bottom + _FONT), top - _FONT)
    waiting = list(range(len(best)))
    for height in heights[::-1]:
        # From the top, the name of the point that is highest as seen from here: lines do not cross.
        steepness = [(points[i, 1] - height) / max(points[i, 0] - edge, 1e-6) for i in waiting]
        chosen = waiting.pop(int(np.argmax(steepness)))
        index, point = best[chosen], points[chosen]
        start = (1, 0.5) if point[0] > edge else (0.5, 0)  # a point under the names is reached from below
        ax.annotate(
            names[index], (x[index], y[index]), xytext=(edge - point[0], height - point[1]),
            textcoords="offset points", ha="right", va="center", fontsize=_FONT, fontstyle="italic",
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": GRAY, "shrinkA": 1, "shrinkB": 2, "relpos": start},
        )  # fmt: skip


def spread(heights: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Move ascending heights (n,) as little as possible so that neighbors are at least `gap` apart, within limits.

    Where the limits leave too little room for the gap, the gap shrinks.
    """
    from scipy.optimize import isotonic_regression

    n = len(heights)
    gap = min(gap, (high - low) / max(n - 1, 1))
    steps = gap * np.arange(n)
    # With the gaps taken out, "at least a gap apart" is "not descending".
    return np.clip(isotonic_regression(heights - steps).x, low, high - steps[-1]) + steps
