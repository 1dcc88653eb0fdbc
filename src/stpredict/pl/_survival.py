"""Survival of patients by predicted risk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._optional import optional_import
from stpredict.pl._finished import finished
from stpredict.pl._style import BLUE, INK, VERMILION, one_panel, style
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._outcome import patient_outcomes
from stpredict.tl.judge._survival import logrank_p, read_risk

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

_LINE = 11  # points between rows of the table
_TICKS = 6  # columns of the table, about


@finished
def survival(
    data: Container,
    risk: str | pd.Series = Key.RISK,
    *,
    time: str = Key.TIME,
    event: str = Key.EVENT,
    group: str = "risk_group",
    patient_key: str = Key.PATIENT,
    level: float = 0.95,
    time_label: str | None = None,
    ax: Axes | None = None,
    table_key: str = Key.TABLE,
) -> Axes:
    """Draw the survival of the patients with high and with low predicted risk, and the numbers at risk.

    Parameters
    ----------
    data
        Table with one row per slide, with a risk, its group and the follow-up, as for :func:`stpredict.tl.survival`.
    risk
        Column of `obs` with the risk, or a series indexed by the slides.
    time, event
        Columns of `obs` with the follow-up time and the event (1 or true where it occurred).
    group
        Column of `obs` with two groups, cut at the median risk of the *training* patients by
        :func:`stpredict.tl.predict`.
    patient_key
        Column of `obs` that names the patient; a patient with several slides counts once.
    level
        Level of the bands around the curves.
    time_label
        Label of the horizontal axis, for example `"months"`; by default it names the column, whose unit nobody recorded.
    ax
        Axes to draw into; those of a new figure by default. The numbers at risk are written below its label.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The axes: Kaplan–Meier estimates :cite:p:`kaplan1958` with pointwise bands (log-log), a tick where a follow-up was
    censored, the p-value of the log-rank test, and below the number of patients at risk.

    Raises
    ------
    ImportError
        When lifelines is not installed (extra `survival`).
    KeyError
        When the risk, the follow-up or the groups are missing.
    ValueError
        When the follow-up is unusable, see :func:`stpredict.tl.survival`.
    TypeError
        When `slides` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> risk = rng.normal(size=80)
    >>> obs = pd.DataFrame({"patient": np.arange(80), "risk": risk, "time": rng.exponential(np.exp(-risk))})
    >>> obs["event"], obs["risk_group"] = rng.random(80) < 0.7, np.where(risk > 0, "high", "low")
    >>> ax = stp.pl.survival(ad.AnnData(obs=obs.set_index("s" + obs["patient"].astype(str))), time_label="years")
    >>> ax.get_xlabel()
    'years'
    """
    lifelines = optional_import("lifelines", "survival")
    if not 0 < level < 1:
        raise ValueError(f"expected level between 0 and 1; found {level!r}")
    adata = get_table(data, table_key)
    values, rows = read_risk(adata, risk, group)
    patients = patient_outcomes(
        adata, rows, risk=values[rows], time=time, event=event, group=group, fold=None, patient_key=patient_key
    )
    # The lower risk first: its curve is the upper one.
    order = list(patients.groupby("group")["risk"].mean().sort_values().index)
    p = logrank_p(patients)

    with style():
        ax = one_panel(ax, 4.2, 3.6)
        for label, color in zip(order, (BLUE, VERMILION), strict=False):
            part = patients[patients["group"] == label]
            estimate = lifelines.KaplanMeierFitter(alpha=1 - level).fit(part["time"], part["event"])
            _curve(ax, estimate, part, color, f"{label} risk ({len(part)})" if label in {"high", "low"} else label)
        ax.set_ylim(0, 1.02)
        ax.set_xlim(0, float(patients["time"].max()) * 1.02)
        ax.set_ylabel("survival")
        ax.set_xlabel(f"follow-up, unit of obs[{time!r}]" if time_label is None else time_label)
        legend = ax.legend(loc="best", borderaxespad=0.2, alignment="left", title=_p_value(p))
        legend.get_title().set_fontsize(8)
        _at_risk(ax, patients, order)
    return ax


def _curve(ax: Axes, estimate: Any, part: pd.DataFrame, color: str, label: str) -> None:
    """Steps of one group with their band, and ticks at the censored follow-ups."""
    times = estimate.survival_function_.index.to_numpy()
    curve = estimate.survival_function_.iloc[:, 0].to_numpy()
    low, high = estimate.confidence_interval_.to_numpy().T
    ax.fill_between(times, low, high, step="post", color=color, alpha=0.15, lw=0)
    ax.step(times, curve, where="post", color=color, lw=1.4, label=label)
    censored = np.unique(part.loc[part["event"] == 0, "time"])
    at = curve[np.searchsorted(times, censored, side="right") - 1]
    ax.plot(censored, at, ls="", marker="|", ms=5, mew=0.8, color=color)


def _at_risk(ax: Axes, patients: pd.DataFrame, order: list[str]) -> None:
    """Write how many patients of each group are still followed at each tick, below the label of the axis."""
    from matplotlib.ticker import MaxNLocator

    left, right = ax.get_xlim()
    # Ticks are fixed here: those of matplotlib change with the size that the layout gives the panel.
    ticks = [
        tick for tick in MaxNLocator(_TICKS, integer=right > _TICKS).tick_values(left, right) if left <= tick <= right
    ]
    ax.set_xticks(ticks)
    top = -(32 + 0.5 * _LINE)

    def write(x: float, row: int, text: str, **kwargs: Any) -> None:
        ax.annotate(
            text, (x, 0), xycoords=("data", "axes fraction"), xytext=(0, top - row * _LINE), va="center",
            textcoords="offset points", fontsize=7.5, annotation_clip=False, **kwargs,
        )  # fmt: skip

    write(left, 0, "at risk", ha="left", color=INK)
    for row, (label, color) in enumerate(zip(order, (BLUE, VERMILION), strict=False), start=1):
        follow_up = patients.loc[patients["group"] == label, "time"].to_numpy()
        ax.annotate(
            label, (0, 0), xycoords="axes fraction", xytext=(-12, top - row * _LINE), textcoords="offset points",
            ha="right", va="center", fontsize=7.5, color=color, annotation_clip=False,
        )  # fmt: skip
        for tick in ticks:
            write(tick, row, str(int((follow_up >= tick).sum())), ha="center", color=color)


def _p_value(p: float) -> str | None:
    if not np.isfinite(p):
        return None
    return f"log-rank p = {p:.2g}" if p >= 1e-4 else "log-rank p < 0.0001"
