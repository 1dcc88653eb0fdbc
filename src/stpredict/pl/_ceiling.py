"""Correlation of every gene against the most that counting noise allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.pl._style import BLUE, GRAY, INK, check_scores, gene_means, is_baseline, one_panel, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_N_LABELED = 8
_LETTER, _LINE = 0.6, 1.25  # width and height of a letter over its font size
_FONT = 7.5


def ceiling(scores: pd.DataFrame, *, model: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the correlation of each gene against its noise ceiling, and name the eight best genes.

    A gene on the diagonal is predicted as well as its counting noise allows; one far below it leaves something to
    learn; one at a low ceiling says little about any model.

    Parameters
    ----------
    scores
        Table of :func:`stpredict.tl.evaluate` or :func:`stpredict.tl.cross_validate` with `ceiling=True`.
    model
        Model to show. By default the one with the highest mean correlation that is no baseline.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes. A point is a gene, its mean over sections, then over patients, where both values are defined; how many
    have none is written below.

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
    >>> ax.get_title(loc="left")
    'ridge'
    """
    check_scores(scores, ["model", "sample", "patient", "gene", "pearson"])
    if "ceiling" not in scores:
        raise KeyError(
            f"expected a column 'ceiling'; found {list(scores.columns)}; run stp.tl.evaluate(adata, ceiling=True) on "
            "data with layers['counts']"
        )
    name = _model(scores, model)
    table = scores[scores["model"].astype(str) == name]
    both = table.dropna(subset=["pearson", "ceiling"])
    if not len(both):
        raise ValueError(f"expected genes of model {name!r} with a correlation and a noise ceiling; found none")
    top = gene_means(both, "ceiling", ["model"]).droplevel(0)
    r = gene_means(both, "pearson", ["model"]).droplevel(0).reindex(top.index)
    n_missing = table["gene"].nunique() - len(r)
    leaky = "leaky" in table and bool(table["leaky"].any())

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
        ax.set_title(f"{name}{' (leaky)' if leaky else ''}", loc="left")
        ratio = f"mean r / mean ceiling = {r.mean():.2f} / {top.mean():.2f}"
        ax.set_title(ratio + (f"\n{n_missing} genes undefined" if n_missing else ""), loc="right", fontsize=7.5)
        _label(ax, top.to_numpy(), r.to_numpy(), [str(gene) for gene in r.index])
    return ax


def _model(scores: pd.DataFrame, model: str | None) -> str:
    means = scores.groupby(scores["model"].astype(str), sort=False)["pearson"].mean()
    if model is not None:
        if model not in means.index:
            raise KeyError(f"expected a model among {sorted(means.index)}; found {model!r}")
        return model
    own = [name for name in means.index if not is_baseline(name)] or list(means.index)
    return str(means[own].fillna(-np.inf).idxmax())


def _label(ax: Axes, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Name the best genes, each at the nearest free place around its point."""
    best = np.argsort(-y, kind="stable")[:_N_LABELED]
    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.draw_without_rendering()  # the size of the panel is known only after the layout
    scale = 72 / (figure.dpi if figure is not None else 72)
    points = ax.transData.transform(np.column_stack([x, y])) * scale
    panel = ax.get_window_extent().extents * scale
    places = place_labels(points, best, [names[i] for i in best], panel)
    for index, (left, bottom) in zip(best, places, strict=True):
        ax.annotate(
            names[index], (x[index], y[index]), xytext=(left - points[index, 0], bottom - points[index, 1]),
            textcoords="offset points", ha="left", va="bottom", fontsize=_FONT, fontstyle="italic",
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": GRAY, "shrinkA": 0, "shrinkB": 2, "relpos": (0.5, 0.5)},
        )  # fmt: skip


def place_labels(points: np.ndarray, chosen: np.ndarray, names: list[str], panel: np.ndarray) -> np.ndarray:
    """Find a place for some labels, greedily, so that none covers a label and as few points as possible.

    Parameters
    ----------
    points
        (n, 2) points of the panel, in typographic points.
    chosen
        Indices of the points to name.
    names
        Their names.
    panel
        Left, bottom, right, top of the panel.

    Returns
    -------
    (n_chosen, 2) left and bottom of each label.
    """
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False) + np.pi / 2
    taken = np.empty((0, 4))
    places = []
    for index, name in zip(chosen, names, strict=True):
        size = np.array([_LETTER * _FONT * len(name), _LINE * _FONT])
        radius = np.repeat([5.0, 10.0, 16.0, 24.0, 34.0, 46.0], len(angle))
        direction = np.tile(np.column_stack([np.cos(angle), np.sin(angle)]), (6, 1))
        # The label's nearest edge, not its center, lies at the radius.
        center = points[index] + direction * (radius[:, None] + np.abs(direction) @ np.diag(size / 2))
        boxes = np.column_stack([center - size / 2, center + size / 2])
        outside = (boxes[:, :2] < panel[:2]).any(axis=1) | (boxes[:, 2:] > panel[2:]).any(axis=1)
        over = (
            (boxes[:, None, :2] < taken[None, :, 2:]).all(axis=2)
            & (boxes[:, None, 2:] > taken[None, :, :2]).all(axis=2)
        ).sum(axis=1)
        covered = (
            (points[None] > boxes[:, None, :2] - 1).all(axis=2) & (points[None] < boxes[:, None, 2:] + 1).all(axis=2)
        ).sum(axis=1)
        best = int(np.argmin(1e6 * over + 1e4 * outside + 30 * covered + radius))
        taken = np.vstack([taken, boxes[best]])
        places.append(boxes[best, :2])
    return np.array(places).reshape(-1, 2)
