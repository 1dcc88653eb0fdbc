"""Distribution of per-gene scores, model beside model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_unique
from stpredict.pl._finished import finished
from stpredict.pl._metric_names import metric_name
from stpredict.pl._style import BLUE, GRAY, INK, ORANGE, category_legend, one_panel, style
from stpredict.slots._marks import mark_words, table_mark
from stpredict.slots._score_tables import LOWER_IS_BETTER, check_scores, gene_means, is_baseline

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_WITH_ZERO = {"pearson", "spearman", "ssim"}
_WITH_CEILING = {"pearson"}


@finished
def scores(
    scores: pd.DataFrame,
    *,
    metric: str = "pearson",
    by: str = "model",
    order: Sequence[str] | None = None,
    baselines: Sequence[str] | None = None,
    ceiling: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a violin of the per-gene scores of each model, beside the noise ceiling.

    The score of a gene is its mean over sections, then over patients. A gene without any defined score is in no violin;
    how many there are is written below.

    Parameters
    ----------
    scores
        Table of :func:`stpredict.tl.evaluate` or :func:`stpredict.tl.cross_validate`.
    metric
        Column with the score.
    by
        Column whose values get a violin each.
    order
        Values of `by` to show, from left to right; when `None`, all of them, baselines first, then by increasing
        median.
    baselines
        Values of `by` to draw in gray; when `None`, the training mean, color, permuted labels, smoothed predictions,
        and the ridge when there are other models.
    ceiling
        Whether to add the noise ceiling of the genes at the right, and its median as a line, where the table has it and
        the metric is `"pearson"`.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes. The white mark is the median, the bar the middle half of the genes. Models that were trained on a patient
    they are scored on are hatched and labeled "leaky", those of which that is not known "leak unknown".

    Raises
    ------
    KeyError
        When a column, or a value of `order`, is missing.
    TypeError
        When `scores` is no table.
    ValueError
        When the table is empty.

    Examples
    --------
    >>> import numpy as np, pandas as pd, stpredict as stp
    >>> table = pd.DataFrame({"model": "ridge", "sample": "s1", "patient": "p1", "gene": list("ABCD")})
    >>> table["pearson"] = [0.1, 0.3, 0.4, np.nan]
    >>> ax = stp.pl.scores(table)
    >>> ax.get_ylabel()
    "Pearson's r per gene"
    """
    check_scores(scores, ["sample", "patient", "gene", metric, by])
    table = scores.assign(**{by: scores[by].astype(str)})
    values = {
        str(name): part.droplevel(0) for name, part in gene_means(table, metric, [by]).groupby(level=0, sort=False)
    }
    plain = _baselines(list(values), by, baselines)
    shown = _order(values, plain, order, by, -1 if metric in LOWER_IS_BETTER else 1)
    marks = {n: mark_words(table_mark(part)) for n, part in table.groupby(by)}
    top = _ceiling(table[table[by].isin(shown)]) if ceiling and metric in _WITH_CEILING else np.array([])

    with style():
        n = len(shown) + bool(len(top))
        ax = one_panel(ax, max(3.0, 0.85 * n + 0.9), 3.4)
        if metric in _WITH_ZERO:
            ax.axhline(0, color=INK, lw=0.7, zorder=0)
        labels, notes = [], []
        for position, name in enumerate(shown):
            defined = values[name].dropna().to_numpy()
            violin(ax, position, defined, GRAY if name in plain else BLUE, hatched=bool(marks.get(name)))
            labels.append("\n".join([*name.split(" "), *([marks[name]] if marks.get(name) else [])]))
            notes.append(_note(table[table[by] == name], metric, len(values[name]) - len(defined)))
        if len(top):
            violin(ax, len(shown), top, ORANGE)
            ax.axhline(float(np.median(top)), color=ORANGE, lw=1, ls=(0, (4, 3)), zorder=0)
            labels.append("noise\nceiling")
            notes.append("")
        ax.set_xticks(range(n), labels)
        ax.set_xlim(-0.6, n - 0.4)
        ax.tick_params(axis="x", length=0)
        ax.set_ylabel(f"{metric_name(metric)} per {'value' if 'target' in table else 'gene'}")
        _write_notes(ax, notes)
        kinds = {
            "model": (BLUE, set(shown) - plain), "baseline": (GRAY, plain & set(shown)), "noise ceiling": (ORANGE, len(top)),
        }  # fmt: skip
        there = [(kind, color) for kind, (color, some) in kinds.items() if some]
        if by == "model" and len(there) > 1:
            category_legend(ax, [kind for kind, _ in there], [color for _, color in there])
    return ax


def _baselines(names: Sequence[str], by: str, baselines: Sequence[str] | None) -> set[str]:
    if baselines is not None:
        return set(map(str, baselines))
    if by != "model":
        return set()
    plain = {name for name in names if is_baseline(name)}
    return plain | {"ridge"} if set(names) - plain - {"ridge"} else plain


def _order(values: dict[str, pd.Series], plain: set[str], order: Sequence[str] | None, by: str, sign: int) -> list[str]:
    if order is None:
        median = {name: sign * np.nanmedian(part) if part.notna().any() else -np.inf for name, part in values.items()}
        return sorted(values, key=lambda name: (name not in plain, median[name]))
    chosen = [str(name) for name in order]
    check_unique(chosen, "names in `order`")
    missing = [name for name in chosen if name not in values]
    if missing or not chosen:
        raise KeyError(f"expected `order` among the values of {by!r}, {list(values)}; found {missing or 'none'}")
    return chosen


def _ceiling(table: pd.DataFrame) -> np.ndarray:
    """Noise ceiling per gene, each section counted once."""
    if "ceiling" not in table:
        return np.array([])
    once = table.drop_duplicates(["sample", "patient", "gene"])
    return gene_means(once.assign(all="ceiling"), "ceiling", ["all"]).dropna().to_numpy()


def violin(ax: Axes, position: float, values: np.ndarray, color: str, *, hatched: bool = False) -> None:
    """Violin with its median and middle half; points where there are too few values for a density."""
    if not len(values):
        return
    if len(np.unique(values)) < 3:
        ax.plot(np.full(len(values), position), values, ls="", marker="o", ms=4, color=color)
        return
    parts: Any = ax.violinplot(values, [position], widths=0.8, showextrema=False)
    for body in parts["bodies"]:
        body.set(facecolor=color, edgecolor=color, alpha=0.75, linewidth=0.8)
        if hatched:
            body.set(hatch="////", edgecolor="white")
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    ax.vlines(position, low, high, color=INK, lw=3)
    ax.plot(position, middle, marker="o", ms=4.5, mfc="white", mec=INK, mew=0.8, ls="")


def _note(table: pd.DataFrame, metric: str, n_undefined: int) -> str:
    """How many genes have no score at all, and how many lack one in some section."""
    lacking = int(table.loc[table[metric].isna(), "gene"].nunique()) - n_undefined
    return "\n".join(
        text
        for text in (
            f"{n_undefined} undefined" if n_undefined else "",
            f"{lacking} more in\nsome section" if lacking > 0 else "",
        )
        if text
    )


def _write_notes(ax: Axes, notes: Sequence[str]) -> None:
    """Write the counts of undefined genes at the foot of the panel, below every violin."""
    if not any(notes):
        return
    low, high = ax.get_ylim()
    lines = max(note.count("\n") + 1 for note in notes)
    ax.set_ylim(low - (0.03 + 0.045 * lines) * (high - low), high)
    for position, note in enumerate(notes):
        ax.annotate(
            note, (position, 0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
            ha="center", va="bottom", fontsize=7, color=INK,
        )  # fmt: skip
