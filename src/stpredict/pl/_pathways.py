"""Scores of pathways by group: what was measured beside what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import few
from stpredict.pl._finished import finished
from stpredict.pl._scores import violin
from stpredict.pl._style import BLUE, GRAY, INK, LIGHT_GRAY, style
from stpredict.pl._terms import shown_terms
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key
from stpredict.slots._values import read_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stpredict.slots._container import Container

_MOST = 8  # pathways of a figure

_WIDEST = 4.6  # inches of a panel


@finished
def pathways(
    data: Container,
    groupby: str,
    pathways: Sequence[str] | str | None = None,
    *,
    scores: str = "pathways",
    measured: str | None = "pathways_measured",
    table_key: str = Key.TABLE,
) -> Figure:
    """Draw the scores of pathways in each group as violins, predicted ones beside measured ones.

    Scores are shown in standard deviations over all in-tissue observations with a group, each side by its own: a
    prediction that is right about differences, but spans less than the truth, looks right. How much it spans is in the
    scores themselves.

    Parameters
    ----------
    data
        AnnData or SpatialData with the scores of :func:`stpredict.tl.pathway_scores`.
    groupby
        Column of `obs` with the groups, for example `"domain"`.
    pathways
        Pathways to draw, a panel each; the first eight when `None`.
    scores
        Slot of `obsm` with the predicted scores.
    measured
        Slot with the measured ones, drawn beside them where it is there; `None` leaves them out.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The figure. Violins with the median and the middle half.

    Raises
    ------
    KeyError
        When the scores, the groups or a pathway are missing.
    ValueError
        When no observation on tissue has a group and a score.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 40, n_spots=60)
    >>> stp.pp.normalize(adata)
    >>> sets = {"first": adata.var_names[:10], "last": adata.var_names[-10:]}
    >>> stp.tl.pathway_scores(adata, sets, use="measured", key_added="pathways")
    >>> figure = stp.pl.pathways(adata, "label")
    >>> [ax.get_title(loc="left") for ax in figure.axes]
    ['first', 'last']
    """
    import matplotlib.pyplot as plt
    import pandas as pd

    adata = get_table(data, table_key, scores)
    check_obs(adata, groupby, "name the column with the groups")
    call = "run stp.tl.pathway_scores first, or name the slot"
    sides = {"predicted": read_values(adata, scores, what=call)}
    names = list(sides["predicted"].columns)
    if measured is not None and measured in adata.obsm and measured != scores:
        sides["measured"] = read_values(adata, measured)
    chosen = names[:_MOST] if pathways is None else [pathways] if isinstance(pathways, str) else list(pathways)
    unknown = [name for name in chosen if name not in names]
    if unknown or not chosen:
        raise KeyError(
            f"expected pathways of obsm[{scores!r}]; found {few(unknown) or 'an empty list'}; choose among {few(names)}"
        )
    group = adata.obs[groupby]
    rows = np.flatnonzero(
        group.notna().to_numpy() & in_tissue(adata) & sides["predicted"].notna().any(axis=1).to_numpy()
    )
    if not len(rows):
        raise ValueError(f"expected observations on tissue with a score and a group in obs[{groupby!r}]; found none")
    text = group.iloc[rows].astype(str).to_numpy()
    ordered = group.cat.categories.astype(str) if isinstance(group.dtype, pd.CategoricalDtype) else sorted(set(text))
    labels = [label for label in ordered if label in set(text)]
    titles = dict(zip(chosen, shown_terms(chosen), strict=True))
    colors = dict(zip(sides, (BLUE, GRAY), strict=False))
    step = len(sides) + 0.6
    with style():
        columns = min(len(chosen), 2)
        lines = -(-len(chosen) // columns)
        width = float(np.clip(0.5 + 0.36 * step * len(labels), 2.6, _WIDEST))
        figure, axes = plt.subplots(
            lines, columns, figsize=(width * columns + 0.9, 1.75 * lines + 0.5), layout="constrained", squeeze=False,
            sharex=True,
        )  # fmt: skip
        for ax, name in zip(axes.ravel(), chosen, strict=False):
            ax.axhline(0, color=LIGHT_GRAY, lw=0.6, zorder=0)
            for place, (side, frame) in enumerate(sides.items()):
                if name not in frame:
                    continue
                values = frame[name].to_numpy()[rows]
                spread = np.nanstd(values)
                values = (values - np.nanmean(values)) / (spread if spread > 0 else 1.0)
                for number, label in enumerate(labels):
                    here = values[text == label]
                    violin(ax, number * step + place, here[np.isfinite(here)], colors[side])
            ax.set_title(titles[name], loc="left")
            ax.set_xticks(np.arange(len(labels)) * step + (len(sides) - 1) / 2)
            if max(map(len, labels)) > 3:
                ax.set_xticklabels(labels, rotation=30, ha="right", rotation_mode="anchor")
            else:
                ax.set_xticklabels(labels)
            ax.tick_params(axis="x", length=0)
        for ax in axes.ravel()[len(chosen) :]:
            ax.set_axis_off()
        figure.supxlabel(groupby, fontsize=9, color=INK)
        figure.supylabel("score (standard deviations)", fontsize=9, color=INK)
        if len(sides) > 1:
            from matplotlib.patches import Patch

            figure.legend(
                handles=[Patch(color=color, alpha=0.75, label=side) for side, color in colors.items()],
                loc="outside upper right", ncols=2,
            )  # fmt: skip
    return figure
