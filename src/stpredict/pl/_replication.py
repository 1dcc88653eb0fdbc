"""How many genes hold in several cohorts, beside how many would by chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stpredict.pl._finished import finished
from stpredict.pl._style import BLUE, GRAY, INK, one_panel, style
from stpredict.slots._marks import mark_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_BARS = 30


@finished
def replication(found: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the number of genes that hold in at least k cohorts or slides, beside the number expected by chance.

    Parameters
    ----------
    found
        A :class:`stpredict.tl.Replication`.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes: bars of the observed numbers, and a gray step at the expected ones. The scale is logarithmic, since chance
    falls by a factor with each cohort; where fewer than .1 gene is expected, the step lies on the lower edge. With more than
    30 cohorts lines take the place of bars.

    Raises
    ------
    TypeError
        When `found` is something else.

    Examples
    --------
    >>> import numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> tables = {
    ...     name: pd.DataFrame({"gene": [f"G{i}" for i in range(50)], "well_predicted": rng.random(50) < 0.3})
    ...     for name in "abc"
    ... }
    >>> ax = stp.pl.replication(stp.tl.replication(tables))
    >>> ax.get_xlabel()
    'holds in at least … of 3'
    """
    import numpy as np

    counts, cohorts = getattr(found, "counts", None), getattr(found, "cohorts", None)
    if counts is None or cohorts is None:
        raise TypeError(f"expected what stp.tl.replication returns; found {type(found).__name__}")
    k, observed, expected = (counts[name].to_numpy() for name in ("at_least", "observed", "expected"))
    floor = 0.1
    shown = np.maximum(expected, floor)
    with style():
        many = len(k) > _MOST_BARS
        ax = one_panel(ax, 5.2 if many else max(3.4, 0.42 * len(k) + 2.2), 2.8)
        if many:
            ax.plot(k, np.where(observed > 0, observed, np.nan), color=BLUE, lw=1.6, label="observed")
            ax.plot(k, shown, color=GRAY, lw=1.6, label="by chance")
        else:
            ax.bar(k, observed, 0.72, color=BLUE, label="observed", zorder=1)
            for place, value in zip(k, shown, strict=True):
                label = "by chance" if place == k[0] else None
                ax.plot([place - 0.46, place + 0.46], [value, value], color=INK, lw=1.8, label=label, zorder=2)
            for place, value, chance in zip(k, observed, shown, strict=True):
                ax.annotate(
                    f"{value:,}", (place, max(value, chance)), xytext=(0, 5), textcoords="offset points", ha="center",
                    fontsize=7.5, color=BLUE, zorder=3,
                )  # fmt: skip
            ax.set_xticks(k)
        ax.set_yscale("log")
        ax.set_ylim(floor, 4 * max(observed.max(), shown.max()))
        ax.minorticks_off()
        ax.set_xlabel(f"holds in at least … of {len(cohorts)}")
        ax.set_ylabel("genes")
        told = mark_words(found.leaky)
        if told:
            ax.set_title(told, loc="left")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), borderaxespad=0.3)
    return ax
