"""Distribution of the correlation of well-predicted genes, model beside model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.pl._finished import finished
from stpredict.pl._scores import violin
from stpredict.pl._style import BLUE, INK, LIGHT_GRAY, category_legend, one_panel, style
from stpredict.slots._marks import mark_words, table_mark

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_NEEDED = ("gene", "well_predicted", "pearson")
_ROTATE_FROM = 9  # violins
_ONE = "the model"  # of a table without labels


@finished
def well_predicted(
    table: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    by: str = "model",
    all_genes: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a violin of the correlations of the well-predicted genes of each model or cancer, with their number.

    The figure follows Fig. 1d of :cite:t:`pizurica2024`. These genes are selected by their correlation on the same
    patients, so the height of a violin is no estimate of accuracy, and one of fewer genes may stand higher: compare the
    counts, and the violins of all genes behind.

    Parameters
    ----------
    table
        Table of :func:`stpredict.tl.well_predicted`, or a mapping from labels (models, cancers) to such tables.
    by
        Column with the label, where a table holds several (concatenated) ones.
    all_genes
        Whether to draw all genes with a correlation too, in gray behind.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes. Above each violin stand the numbers of well-predicted and of all genes; the white mark is the median, the
    bar the middle half of the well-predicted genes. Models that saw a patient they are judged on are hatched and
    labeled "leaky", those of which that is not known "leak unknown".

    Raises
    ------
    KeyError
        When a table lacks a column.
    TypeError
        When it is neither a table nor a mapping of tables.
    ValueError
        When there is no table, or one without rows.

    Examples
    --------
    >>> import numpy as np, pandas as pd, stpredict as stp
    >>> table = pd.DataFrame({"gene": list("ABCDE"), "pearson": [0.5, 0.4, 0.6, 0.1, np.nan]})
    >>> table["well_predicted"], table["leaky"] = table["pearson"] > 0.3, False
    >>> ax = stp.pl.well_predicted({"sequoia": table})
    >>> ax.texts[0].get_text().split()
    ['3', 'of', '5']
    """
    parts = _parts(table, by)
    with style():
        n = len(parts)
        ax = one_panel(ax, max(3.4, 0.75 * n + 2.4), 3.4)
        ax.axhline(0, color=INK, lw=0.7, zorder=0)
        labels, tops = [], []
        for position, (label, part) in enumerate(parts.items()):
            defined = part["pearson"].dropna().to_numpy(dtype=np.float64)
            called = part.loc[part["well_predicted"].astype(bool), "pearson"].to_numpy(dtype=np.float64)
            leaky = mark_words(table_mark(part))
            if all_genes:
                _background(ax, position, defined)
            violin(ax, position, called, BLUE, hatched=bool(leaky))
            labels.append((label or _ONE).replace(" ", "\n") + (f"\n{leaky}" if leaky else ""))
            drawn = defined if all_genes else called
            tops.append(float(drawn.max()) if len(drawn) else 0.0)
        steep: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if n >= _ROTATE_FROM else {}
        ax.set_xticks(range(n), labels, **steep)
        ax.set_xlim(-0.6, n - 0.4)
        ax.tick_params(axis="x", length=0)
        ax.set_ylabel("Pearson's r over patients" if all_genes else "Pearson's r of well-predicted genes")
        low, high = ax.get_ylim()
        ax.set_ylim(low, max(high, max(tops) + 0.14 * (high - low)))
        for position, (part, top) in enumerate(zip(parts.values(), tops, strict=True)):
            ax.annotate(
                f"{int(part['well_predicted'].sum()):,}\nof {len(part):,}", (position, max(top, 0.0)), xytext=(0, 4),
                textcoords="offset points", ha="center", va="bottom", fontsize=7.5, color=INK,
            )  # fmt: skip
        names, colors = ["well predicted"], [BLUE]
        if all_genes:
            names, colors = ["well predicted", "all genes"], [BLUE, LIGHT_GRAY]
        category_legend(ax, names, colors)
    return ax


def _background(ax: Axes, position: int, values: np.ndarray) -> None:
    """Violin of all genes; nothing where there are too few for a density."""
    if len(np.unique(values)) < 3:
        return
    drawn: Any = ax.violinplot(values, [position], widths=0.9, showextrema=False)
    for body in drawn["bodies"]:
        body.set(facecolor=LIGHT_GRAY, edgecolor="none", alpha=1.0, zorder=0.5)


def _parts(table: Any, by: str) -> dict[str, pd.DataFrame]:
    """Tables by label, in the order given."""
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        _check(table, "the table")
        if by not in table:
            return {"": table}
        return {str(label): part for label, part in table.groupby(by, sort=False, observed=True)}
    if not isinstance(table, Mapping):
        raise TypeError(
            f"expected the table of stp.tl.well_predicted, or a mapping of such tables; found {type(table).__name__}"
        )
    if not table:
        raise ValueError("expected at least one table; found none")
    for label, part in table.items():
        if not isinstance(part, pd.DataFrame):
            raise TypeError(f"expected the table of stp.tl.well_predicted for {label!r}; found {type(part).__name__}")
        _check(part, f"the table of {label!r}")
    return {str(label): part for label, part in table.items()}


def _check(table: pd.DataFrame, name: str) -> None:
    missing = [column for column in _NEEDED if column not in table]
    if missing:
        raise KeyError(
            f"expected the columns {list(_NEEDED)} in {name}; missing {missing}; pass the table of stp.tl.well_predicted"
        )
    if not len(table):
        raise ValueError(f"expected at least one gene in {name}; found none")
