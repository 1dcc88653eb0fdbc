"""Loss or correlation per epoch of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_choice
from stpredict.pl._finished import finished
from stpredict.pl._style import BLUE, INK, VERMILION, one_panel, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from stpredict.training import FittedModel

_LABELS = {"loss": "loss", "correlation": "mean Pearson's r"}


@finished
def history(model: FittedModel | pd.DataFrame, *, metric: str = "loss", ax: Axes | None = None) -> Axes:
    """Draw the training and validation curves of a fit, and mark the epoch that was kept.

    Parameters
    ----------
    model
        Fitted model, or its `history`.
    metric
        Curve to draw: `"loss"`, or `"correlation"` (of the validation split only).
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes. A refit is dashed: the network trained anew on all training observations, for the number of epochs that was
    kept, so that it has no validation curve. A loss is in the network's own unit. Of a model, the marked epoch is the one whose weights were kept; of a table alone, the best one of the curve shown.

    Raises
    ------
    TypeError
        When `model` is neither a fitted model nor a table.
    ValueError
        When there are no epochs, as after a closed-form fit.
    KeyError
        When the table has no such curve.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> epochs = pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [3.0, 2.0, 1.0], "validation_loss": [3.0, 2.0, 2.5]})
    >>> ax = stp.pl.history(epochs)
    >>> ax.get_legend_handles_labels()[1]
    ['training', 'validation', 'kept: epoch 2']
    """
    import pandas as pd
    from matplotlib.ticker import MaxNLocator

    check_choice(metric, tuple(_LABELS), "metric")
    table = model if isinstance(model, pd.DataFrame) else getattr(model, "history", None)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"expected a model of stp.tl.fit, or its history; found {type(model).__name__}")
    if not len(table):
        raise ValueError("expected at least one epoch; found none: closed-form models (ridge, mean) have no history")
    curves = {"training": f"train_{metric}", "validation": f"validation_{metric}"}
    if "epoch" not in table or not any(name in table for name in curves.values()):
        raise KeyError(
            f"expected the columns 'epoch' and {' or '.join(map(repr, curves.values()))}; found {list(table.columns)}"
        )
    phase = table["phase"] if "phase" in table else pd.Series("inner", index=table.index)
    inner, refit = table[phase != "refit"], table[phase == "refit"]
    best = _best(model, inner, curves["validation"], metric)

    with style():
        ax = one_panel(ax, 4.0, 2.8)
        for (label, column), color in zip(curves.items(), (BLUE, VERMILION), strict=True):
            if column not in table:
                continue
            marker = "o" if len(inner) == 1 else ""
            if inner[column].notna().any():
                ax.plot(inner["epoch"] + 1, inner[column], color=color, lw=1.5, marker=marker, ms=4, label=label)
            if refit[column].notna().any():
                ax.plot(
                    refit["epoch"] + 1,
                    refit[column],
                    color=color,
                    lw=1.2,
                    ls=(0, (3, 2)),
                    label=f"{label}, refit on all",
                )
        if best is not None:
            _mark(ax, inner, best, curves["validation"])
        ax.set_xlabel("epoch")
        ax.set_ylabel(_LABELS[metric])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.02)
        if metric == "loss" and _spans_decades(table, list(curves.values())):
            ax.set_yscale("log")
        ax.legend(loc="best")
        if name := getattr(model, "model", ""):
            ax.set_title(str(name), loc="left")
    return ax


def _best(model: Any, inner: pd.DataFrame, column: str, metric: str) -> int | None:
    """Number of the epoch that was kept, from 1; `None` where nothing was held out to choose it."""
    if column not in inner or not inner[column].notna().any():
        return None
    if n_epochs := getattr(getattr(model, "training", None), "n_epochs", 0):
        return int(n_epochs)
    values = inner[column].to_numpy(dtype=float)
    at = int(np.nanargmin(values) if metric == "loss" else np.nanargmax(values))
    return int(inner["epoch"].to_numpy()[at]) + 1


def _mark(ax: Axes, inner: pd.DataFrame, best: int, column: str) -> None:
    ax.axvline(best, color=INK, lw=0.7, ls=(0, (1, 2)), zorder=0)
    at = inner.loc[inner["epoch"] + 1 == best, column]
    ax.plot(
        [best] * len(at), at, ls="", marker="o", ms=6, mfc="white", mec=VERMILION, mew=1.5, label=f"kept: epoch {best}"
    )


def _spans_decades(table: pd.DataFrame, columns: list[str]) -> bool:
    values = table[[name for name in columns if name in table]]
    return bool(values.max().max() > 30 * values.min().min() > 0)
