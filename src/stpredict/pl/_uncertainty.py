"""What a model says of its own certainty: a map of the spread, and intervals with what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stpredict.pl._color_bar import color_bar
from stpredict.pl._finished import finished
from stpredict.pl._sections import FLAT, color_limits, find_sections, is_flat, measured_spread, range_text, usual_range
from stpredict.pl._style import (
    BLUE,
    INK,
    LIGHT_GRAY,
    VALUE_CMAP,
    VERMILION,
    draw_spots,
    frame_section,
    given_axes,
    leave_room,
    name_style,
    style,
    value_label,
)
from stpredict.slots._container import find_table, get_table
from stpredict.slots._keys import Key
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record
from stpredict.slots._samples import quantiles_of
from stpredict.slots._truth import measured_columns

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

_PANEL = 2.0  # inches
_TITLES = ("predicted", "standard deviation")


class _Interval(NamedTuple):
    """Bounds (n_obs, n_genes), their level, and where they come from."""

    lower: np.ndarray
    upper: np.ndarray
    level: float
    origin: str


@finished
def uncertainty(
    data: Container,
    genes: str | Sequence[str],
    *,
    key: str = Key.PREDICTED,
    sample: str | Sequence[str] | None = None,
    layer: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    spot_size: float | None = None,
    cmap: str = VALUE_CMAP,
    spread_cmap: str = "magma",
    vmin: float | None = None,
    vmax: float | None = None,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> np.ndarray:
    """Map predictions and their standard deviation, and draw the interval of every spot with what was measured.

    Intervals are those of :func:`stpredict.tl.conformal` where there are some, and otherwise between the lowest and the
    highest quantile of the samples that :func:`stpredict.tl.predict` wrote, which nobody has calibrated. Spots stand in the
    order of their prediction; measured values outside their interval are vermilion, and the title counts those inside.

    Parameters
    ----------
    data
        AnnData or SpatialData with a prediction, and bounds or quantiles of samples beside it.
    genes
        Genes of the prediction, one row of panels each.
    key
        Slot of the prediction in `obsm`.
    sample
        Section to show, several, or `"all"`; the first one by default, with a note where there are others.
    layer
        Layer with the measured values; `X` by default.
    ax
        Axes to draw into, one per panel in the order of what is returned; those of a new figure by default.
    spot_size
        Diameter of a spot in full-resolution pixels, as in :func:`stpredict.pl.genes`.
    cmap, spread_cmap
        Colormaps of the prediction and of its standard deviation.
    vmin, vmax
        Ends of the color scale of the prediction; its own, but for the outermost 1 %, when `None`.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Axes (n_genes, 3): the two maps and the intervals; with several sections (n_sections, n_genes, 3). Without a standard deviation the second map shows half the width of the
    intervals. A map that is practically constant says so. Observations without bounds, such as those of a calibration, are gray there and have no interval.

    Raises
    ------
    KeyError
        When the prediction, a gene or the section is missing, or there are neither bounds nor quantiles.
    ValueError
        When there is no observation to show.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When the object has several sections and `sample` names none.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 4, n_spots=30)
    >>> stp.pp.normalize(adata)
    >>> adata.obsm["predicted"] = adata.to_df() * 0.5
    >>> for name, shift in (("lower", -1.0), ("upper", 1.0)):
    ...     adata.obsm[f"predicted_{name}"] = adata.obsm["predicted"] + shift
    >>> stp.pl.uncertainty(adata, adata.var_names[:2]).shape
    (2, 3)
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import Normalize

    table_key = find_table(data, table_key, key)
    adata = get_table(data, table_key)
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    predicted = prediction_frame(adata, key, names).to_numpy(dtype=float)
    interval = _interval(adata, key, names)
    std, titles = (interval.upper - interval.lower) / 2, (_TITLES[0], "half the interval")
    if Key.std(key) in adata.obsm:
        std, titles = prediction_frame(adata, Key.std(key), names).to_numpy(dtype=float), _TITLES
    sections = find_sections(data, sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    one = len(sections) == 1 and (sample is None or isinstance(sample, str))
    measured = measured_columns(adata, key, names, layer)
    noise = measured_spread(adata, key, names)
    n = len(names)
    given = given_axes(ax, len(sections) * n * 3)
    with style():
        if given is None:
            aspects = [(section.box[2] - section.box[3]) / (section.box[1] - section.box[0]) for section in sections]
            heights = [_PANEL * max(aspect, 0.7) + 0.35 for aspect in aspects for _ in names]
            figure, grid = plt.subplots(
                len(heights), 3, figsize=(2 * _PANEL + 5.0, sum(heights) + 0.3), squeeze=False, layout="constrained",
                width_ratios=[1, 1, 1.5], height_ratios=heights,
            )  # fmt: skip
            leave_room(figure)
            given = list(grid.ravel())
        axes = np.array(given, dtype=object).reshape(len(sections), n, 3)
        for section, panels in zip(sections, axes, strict=True):
            rows = section.rows
            for row, (name, line) in enumerate(zip(names, panels, strict=True)):
                unit = value_label(adata, layer, key, name)
                pair = (
                    (predicted[rows, row], (titles[0], cmap, noise[row])),
                    (std[rows, row], (titles[1], spread_cmap, np.nan)),
                )
                for pane, (shown, (title, colors, scale)) in zip(line, pair, strict=False):
                    frame_section(pane, section, scale_bar=pane is line[0] and row == n - 1)
                    ends = usual_range(shown)
                    flat = is_flat(*ends, noise=scale)
                    limits = color_limits(shown, vmin, vmax) if pane is line[0] else color_limits(shown)
                    spots = draw_spots(pane, section, values=shown, cmap=colors, norm=Normalize(*limits))
                    color_bar(spots, pane, unit, values=shown)
                    lines = [f"{section.name}: {title}" if pane is line[0] else title] if row == 0 else []
                    lines += [f"{FLAT}: {range_text(*ends)}"] if flat else []
                    pane.set_title("\n".join(lines))
                line[0].set_ylabel(name, fontstyle=name_style(adata, key), fontsize=10)
                _draw_intervals(line[2], predicted[rows, row], interval, rows, row, measured[rows, row], first=row == 0)
                line[2].set_ylabel(unit)
                if row == n - 1:
                    line[2].set_xlabel("spots, by their prediction")
    return axes[0] if one else axes


def _draw_intervals(
    ax: Any,
    predicted: np.ndarray,
    interval: _Interval,
    rows: np.ndarray,
    gene: int,
    measured: np.ndarray,
    *,
    first: bool,
) -> None:
    """Draw the interval and the measured value of each spot, in the order of the predictions."""
    lower, upper = interval.lower[rows, gene], interval.upper[rows, gene]
    bounded = np.isfinite(lower) & np.isfinite(upper) & np.isfinite(predicted)
    order = np.flatnonzero(bounded)[np.argsort(predicted[bounded], kind="stable")]
    place = np.arange(len(order))
    ax.vlines(place, lower[order], upper[order], color=LIGHT_GRAY, lw=max(0.4, min(3.0, 150 / max(len(order), 1))))
    ax.plot(place, predicted[order], color=INK, lw=1.0)
    y, size = measured[order], 2.5 if len(order) > 150 else 3.5
    known = np.isfinite(y)
    inside = known & (y >= lower[order]) & (y <= upper[order])
    for mask, color in ((inside, BLUE), (known & ~inside, VERMILION)):
        ax.plot(place[mask], y[mask], ls="", marker="o", ms=size, mew=0, color=color, alpha=0.8)
    level = f"{interval.level:.0%} {interval.origin}" if np.isfinite(interval.level) else interval.origin
    held = f"{inside.sum() / known.sum():.0%} inside" if known.any() else "nothing measured"
    ax.set_title(f"{level}: {held}" if first else held)


def _interval(adata: AnnData, key: str, names: Sequence[str]) -> _Interval:
    """Calibrated bounds, or the outer quantiles of the samples."""
    slots = Key.lower(key), Key.upper(key)
    if all(slot in adata.obsm for slot in slots):
        lower, upper = (prediction_frame(adata, slot, names).to_numpy(dtype=float) for slot in slots)
        level = (read_record(adata, Key.conformal(key)) or {}).get("level", np.nan)
        return _Interval(lower, upper, float(level), "calibrated interval")
    import pandas as pd

    levels = np.atleast_1d(np.asarray((read_record(adata, key) or {}).get("quantiles", []), dtype=float))
    if Key.quantiles(key) not in adata.obsm or levels.size < 2:
        raise KeyError(
            f"expected bounds in obsm[{slots[0]!r}] and obsm[{slots[1]!r}], or two quantiles in obsm[{Key.quantiles(key)!r}]; "
            f"found {sorted(adata.obsm)}; call stp.tl.conformal, or stp.tl.predict with n_samples="
        )
    outer = [levels.min(), levels.max()]
    columns = prediction_frame(adata, key).columns.get_indexer(pd.Index(list(names)))
    lower, upper = quantiles_of(adata, key, outer)[:, :, columns].astype(float).transpose(1, 0, 2)
    return _Interval(lower, upper, float(outer[1] - outer[0]), "of the samples")
