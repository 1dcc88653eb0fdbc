"""Maps of single genes: picture, measured, predicted, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._constant import constant
from stpredict.core._validate import check_choice, check_unique
from stpredict.pl._color_bar import color_bar
from stpredict.pl._finished import finished
from stpredict.pl._sections import FLAT, color_limits, find_sections, is_flat, measured_spread, usual_range
from stpredict.pl._style import (
    ERROR_CMAP,
    VALUE_CMAP,
    Section,
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
from stpredict.slots._marks import joint_mark, leak_marks, mark_words
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._score_tables import picked_on
from stpredict.slots._truth import measured_columns

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

    from stpredict.slots._container import Container

_COLUMNS = ("image", "measured", "predicted", "error")
_TITLES = {"image": "H&E", "measured": "measured", "predicted": "predicted", "error": "predicted − measured"}
_PANEL = 1.9  # inches
_CLIPPED = 0.01  # share of the values beyond either end of a color scale, so that one spot does not stretch it


@finished
def genes(
    data: Container,
    genes: str | Sequence[str],
    *,
    key: str = Key.PREDICTED,
    sample: str | Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    layer: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    spot_size: float | None = None,
    cmap: str = VALUE_CMAP,
    error_cmap: str = ERROR_CMAP,
    vmin: float | None = None,
    vmax: float | None = None,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> np.ndarray:
    """Map genes on a section: picture, measured values, predicted values and their difference.

    Measured and predicted values share one color scale, so that a prediction that is flatter than the truth also looks
    flatter. The error is the difference after both were standardized within the section: it shows where the pattern is
    missed, whatever the amplitude.

    Parameters
    ----------
    data
        AnnData or SpatialData with a prediction.
    genes
        Genes of the prediction, one row of panels each. Those of :func:`stpredict.get.top_genes` that were ranked on the
        patient who is drawn are marked "picked here": they look better than they are.
    key
        Slot of the prediction in `obsm`.
    sample
        Section to show, several, or `"all"`; the first one by default, with a note where there are others.
    columns
        Panels of each gene, among `"image"`, `"measured"`, `"predicted"` and `"error"`; all that the section has when
        `None`: a section that was not measured shows its picture and the prediction.
    layer
        Layer with the measured values; `X` by default.
    ax
        Axes to draw into, one per panel in the order of what is returned; those of a new figure by default.
    spot_size
        Diameter of a spot in full-resolution pixels. By default that of the section's scale factors, but at least 0.8 of
        the distance between spots; sections of 2000 spots and more are drawn without gaps.
    cmap
        Colormap of the values.
    error_cmap
        Diverging colormap of the error.
    vmin, vmax
        Ends of the color scale of the values of every gene; those of its own values, but for the outermost 1 %, when `None`.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Axes (n_genes, n_columns); with several sections (n_sections, n_genes, n_columns), with one scale per gene. Axes are
    in full-resolution pixels, y downward; spots that were not measured are gray, and a gene that was not predicted, as
    one outside the panel of the fold that predicted the section, says so. So does a prediction that is practically
    constant, by the rule of :func:`stpredict.pl.maps`: its correlation says little.

    Raises
    ------
    KeyError
        When the prediction, a gene, the section or a column that was asked for is missing.
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
    >>> axes = stp.pl.genes(adata, adata.var_names[:2])
    >>> axes.shape
    (2, 4)
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import Normalize

    table_key = find_table(data, table_key, key)
    adata = get_table(data, table_key)
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    frame = prediction_frame(adata, key, names)
    sections = find_sections(data, sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    one = len(sections) == 1 and (sample is None or isinstance(sample, str))
    parts = [_part(adata, frame, section, names, key, layer) for section in sections]
    noise = measured_spread(adata, key, names)
    for part in parts:
        if Key.PATIENT in adata.obs and picked_on(genes, adata.obs[Key.PATIENT].iloc[part.section.rows[:1]]):
            part.leaky = ", ".join(filter(None, (part.leaky, "picked here")))
    measured_anywhere = np.concatenate([part.measured for part in parts])
    panels = _columns(columns, sections, measured_anywhere)
    limit = _symmetric_limit(np.concatenate([part.error for part in parts]))
    units = [value_label(adata, layer, key, name) for name in names]
    face = name_style(adata, key)
    heights = [(part.section.box[2] - part.section.box[3]) / (part.section.box[1] - part.section.box[0]) for part in parts]  # fmt: skip
    n = len(names)
    given = given_axes(ax, len(parts) * n * len(panels))

    with style():
        if given is None:
            bars = 0.75 * (bool({"measured", "predicted"} & set(panels)) + ("error" in panels))
            height = sum((_PANEL * aspect + 0.3) * n for aspect in heights) + 0.4
            figure, axes = plt.subplots(
                n * len(parts), len(panels), figsize=(_PANEL * len(panels) + bars + 0.3, height), squeeze=False,
                layout="constrained", height_ratios=np.repeat(heights, n).tolist(),
            )  # fmt: skip
            leave_room(figure)
        axes = (axes if given is None else np.array(given, dtype=object)).reshape(len(parts), n, len(panels))
        for row, name in enumerate(names):
            pair = np.concatenate([values[:, row] for part in parts for values in (part.measured, part.predicted)])
            norms = {"error": Normalize(-limit, limit), "value": Normalize(*color_limits(pair, vmin, vmax))}
            for part, part_axes in zip(parts, axes[:, row], strict=True):
                flat = is_flat(*usual_range(part.predicted[:, row]), noise=float(noise[row]))
                drawn = _draw_row(part_axes, part, row, panels, norms, (cmap, error_cmap), last=row == n - 1, flat=flat)
                part_axes[0].set_ylabel(name, fontstyle=face, fontsize=10)
                _add_colorbars(part_axes, panels, drawn, units[row])
    return axes[0] if one else axes


@dataclass
class _Part:
    """Values (n, n_genes) of one section."""

    section: Section
    measured: np.ndarray
    predicted: np.ndarray
    error: np.ndarray
    leaky: str  # and whether the genes were picked here
    missing: str  # what is said of a gene without a prediction


def _part(
    adata: AnnData, frame: pd.DataFrame, section: Section, names: list[str], key: str, layer: str | None
) -> _Part:
    predicted = frame.to_numpy(dtype=float)[section.rows]
    measured = _measured(adata, key, names, section.rows, layer)
    leaky = mark_words(joint_mark(leak_marks(adata, key)[section.rows]))
    missing = "not in the panel\nof this fold" if Key.fold(key) in adata.obs else "not predicted"
    return _Part(section, measured, predicted, _error(measured, predicted), leaky, missing)


def _draw_row(
    axes: np.ndarray,
    part: _Part,
    gene: int,
    panels: list[str],
    norms: dict[str, Normalize],
    cmaps: tuple[str, str],
    *,
    last: bool,
    flat: bool,
) -> dict[str, Any]:
    """Draw the panels of one gene on one section, and return their spots."""
    values = {"measured": part.measured, "predicted": part.predicted, "error": part.error}
    drawn: dict[str, Any] = {}
    for ax, kind in zip(axes, panels, strict=True):
        frame_section(ax, part.section, picture=kind == "image", scale_bar=ax is axes[0] and last)
        if kind != "image":
            of_error = kind == "error"
            drawn[kind] = draw_spots(
                ax, part.section, values=values[kind][:, gene], cmap=cmaps[of_error],
                norm=norms["error" if of_error else "value"],
            )  # fmt: skip
        if kind == "predicted" and not np.isfinite(part.predicted[:, gene]).any():
            ax.text(
                0.5, 0.5, part.missing, transform=ax.transAxes, ha="center", va="center", fontsize=8, zorder=3,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
            )  # fmt: skip
        title = _title(kind, gene == 0, part.measured[:, gene], part.predicted[:, gene], part.leaky)
        title += f"\n{FLAT}" if flat and kind == "predicted" else ""
        ax.set_title(f"{part.section.name}: {title}" if gene == 0 and ax is axes[0] else title)
    return drawn


def _measured(adata: AnnData, key: str, names: Sequence[str], rows: np.ndarray, layer: str | None) -> np.ndarray:
    """Measured values (n, n_genes), NaN for genes and observations without."""
    check_unique(adata.var_names, "var_names")
    return measured_columns(adata, key, names, layer)[rows]


def _columns(columns: Sequence[str] | None, sections: list[Section], measured: np.ndarray) -> list[str]:
    """Columns to show: those asked for, which must exist, or those there are."""
    has = {"image": any(section.image is not None for section in sections), "predicted": True}
    has["measured"] = has["error"] = bool(np.isfinite(measured).any())
    if columns is None:
        return [name for name in _COLUMNS if has[name]]
    chosen = [columns] if isinstance(columns, str) else list(columns)
    if not chosen:
        raise ValueError(f"expected at least one column among {', '.join(_COLUMNS)}; found none")
    for name in chosen:
        check_choice(name, _COLUMNS, "columns")
    check_unique(chosen, "columns")
    missing = [name for name in chosen if not has[name]]
    if missing:
        raise KeyError(
            f"expected {' and '.join(missing)} of section {sections[0].name!r}; found none; leave it out of `columns`, or "
            "store the picture in uns['spatial'] and the measured expression in X"
        )
    return chosen


def _standardized(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Columns (n, n_genes) with mean 0 and variance 1 over the observations of a mask; NaN for constant ones."""
    n = where.sum(axis=0)
    mean = np.divide(np.where(where, values, 0).sum(axis=0), n, out=np.full(len(n), np.nan), where=n > 0)
    centered = np.where(where, values - mean, 0)
    std = np.sqrt(np.divide((centered**2).sum(axis=0), n, out=np.full(len(n), np.nan), where=n > 0))
    std = np.where(constant(std, mean), np.nan, std)
    return np.where(where, (values - mean) / std, np.nan)


def _error(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Standardized prediction minus standardized measurement (n, n_genes), over observations that have both."""
    finite = np.isfinite(measured) & np.isfinite(predicted)
    return _standardized(predicted, finite) - _standardized(measured, finite)


def _symmetric_limit(values: np.ndarray) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(np.quantile(finite, 1 - _CLIPPED)) or 1.0 if len(finite) else 1.0


def _title(kind: str, first: bool, measured: np.ndarray, predicted: np.ndarray, leaky: str) -> str:
    from stpredict.metrics import pearson

    label = _TITLES[kind] if first else ""
    finite = np.isfinite(measured) & np.isfinite(predicted)
    if kind != "predicted" or not finite.any():
        return ", ".join(part for part in (label, leaky if kind == "predicted" else "") if part)
    r = float(pearson(measured[finite, None], predicted[finite, None])[0])
    score = f"r = {r:.2f}" if np.isfinite(r) else "r undefined"
    return ", ".join(part for part in (label, score, leaky) if part)


def _add_colorbars(axes: np.ndarray, shown: list[str], drawn: dict[str, Any], unit: str) -> None:
    """One scale for measured and predicted, one for the error, each right of its last panel."""
    values = [kind for kind in shown if kind in {"measured", "predicted"}]
    for kinds, label in ((values, unit), (["error"] if "error" in shown else [], "difference of z-scores")):
        if kinds:
            against = np.concatenate([drawn[kind].get_array().compressed() for kind in kinds])
            color_bar(drawn[kinds[-1]], axes[shown.index(kinds[-1])], label, values=against)
