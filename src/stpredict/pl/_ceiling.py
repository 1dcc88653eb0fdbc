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
    from matplotlib.lines import Line2D

_N_LABELED = 8
_LINE = 1.35  # height of a line over the font size
_FONT = 7.5
_APART = 1.03  # of the width of a panel, where the names begin
_MOST = 0.8  # of the height of a panel, for the names


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
        ax = one_panel(ax, 4.6, 3.6)
        diagonal = frame_ceilings(ax, top.to_numpy(), r.to_numpy())
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
        ax.set_ylabel("Pearson's r per gene")
        ratio = f"mean r / mean ceiling = {r.mean():.2f} / {top.mean():.2f}"
        undefined = f"\n{n_missing} of {n_missing + len(r)} genes undefined" if n_missing else ""
        ax.set_title(f"{name}{f' ({leaky})' if leaky else ''}\n{ratio}{undefined}", loc="left")
        ax.legend(handles=[diagonal], loc="upper left", borderaxespad=0.2)
        label_best(ax, top.to_numpy(), r.to_numpy(), [str(gene) for gene in r.index])
    return ax


def frame_ceilings(ax: Axes, x: np.ndarray, y: np.ndarray) -> Line2D:
    """Limits and lines of correlations `y` against ceilings `x`: the line where both are the same, which is returned, and zero."""
    low, high = min(0.0, float(x.min()), float(y.min())) - 0.05, max(float(x.max()), float(y.max())) + 0.08
    (diagonal,) = ax.plot([low, high], [low, high], color=GRAY, lw=0.8, ls=(0, (4, 3)), zorder=0, label="r = ceiling")
    ax.axhline(0, color=INK, lw=0.6, zorder=0)
    ax.set_xlim(min(0.0, float(x.min())) - 0.05, float(x.max()) + 0.05)
    ax.set_ylim(min(0.0, float(y.min())) - 0.05, float(y.max()) + 0.05)
    ax.set_xlabel("noise ceiling per gene")
    return diagonal


def label_best(ax: Axes, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Name the best genes in a column right of the panel, each with a line to its point.

    A name is as high as the lowest of these points at least, so that lines pass no point that is worse; the panel gets higher
    where there is not enough room for that.
    """
    best = np.argsort(-y, kind="stable")[:_N_LABELED]
    best = best[np.argsort(y[best], kind="stable")]
    figure = figure_of(ax)
    figure.draw_without_rendering()  # the size of the panel is known only after the layout
    extent = ax.get_window_extent()
    height = extent.height * 72 / figure.dpi
    bottom, top = ax.get_ylim()
    room = min((_LINE * _FONT * (len(best) - 1) + _FONT) / height, _MOST)
    top = max(top, (float(y[best[0]]) - room * bottom) / (1 - room))
    ax.set_ylim(bottom, top)
    # In shares of the panel, which names at its side make narrower.
    points = ax.transAxes.inverted().transform(ax.transData.transform(np.column_stack([x, y])[best]))
    line, edge = _LINE * _FONT / height, 0.5 * _FONT / height
    heights = spread(points[:, 1], line, float(points[0, 1]), 1 - edge)
    waiting = list(range(len(best)))
    for up in heights[::-1]:
        # From the top, the name of the point that is highest as seen from here: lines do not cross.
        steepness = [(points[i, 1] - up) / (_APART - points[i, 0]) for i in waiting]
        chosen = waiting.pop(int(np.argmax(steepness)))
        index = best[chosen]
        ax.annotate(
            names[index], (x[index], y[index]), xytext=(_APART, up), textcoords="axes fraction", ha="left", va="center",
            fontsize=_FONT, fontstyle="italic", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": GRAY, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)},
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
