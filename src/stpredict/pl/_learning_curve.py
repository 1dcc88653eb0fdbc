"""Scores against the number of training patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.core._palette import category_colors
from stpredict.pl._finished import finished
from stpredict.pl._metric_names import metric_name
from stpredict.pl._style import one_panel, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@finished
def learning_curve(curve: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the scores of models against the number of training patients; what is extrapolated is dashed.

    Parameters
    ----------
    curve
        Table of :func:`stpredict.tl.learning_curve`.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes: a line per model with the interval over test patients as a band.

    Raises
    ------
    KeyError
        When a column is missing.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> curve = pd.DataFrame(
    ...     {"model": "ridge", "n_patients": [2, 4, 8], "score": [0.2, 0.3, 0.35], "low": 0.1, "high": 0.4}
    ... )
    >>> ax = stp.pl.learning_curve(curve.assign(extrapolated=[False, False, True]))
    >>> ax.get_xlabel()
    'training patients'
    """
    from matplotlib.ticker import MaxNLocator

    needed = ["model", "n_patients", "score", "low", "high", "extrapolated"]
    missing = [name for name in needed if name not in curve]
    if missing:
        raise KeyError(f"expected the table of stp.tl.learning_curve; missing {missing}")
    shown = [(str(name), part) for name, part in curve.groupby("model", sort=False) if part["score"].notna().any()]
    with style():
        ax = one_panel(ax, 4.2, 3.0)
        for (name, part), color in zip(shown, category_colors(len(shown)), strict=True):
            part = part.sort_values("n_patients")
            known = part[~part["extrapolated"].astype(bool)]
            ax.plot(known["n_patients"], known["score"], "o-", color=color, ms=4, lw=1.5, label=name)
            ax.plot(*part.tail(2)[["n_patients", "score"]].to_numpy().T, ls=(0, (4, 3)), color=color, lw=1.2, zorder=1)
            ax.fill_between(
                part["n_patients"].to_numpy(float), part["low"].to_numpy(float), part["high"].to_numpy(float), color=color,
                alpha=0.15, lw=0,
            )  # fmt: skip
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("training patients")
        ax.set_ylabel(f"mean {metric_name(str(curve.attrs.get('metric', 'score')))} over genes")
        if shown:
            ax.legend(loc="lower right")
    return ax
