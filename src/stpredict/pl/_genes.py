"""Maps of single genes: picture, measured, predicted, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._constant import constant
from stpredict.core._validate import check_choice, check_unique
from stpredict.pl._style import (
    ERROR_CMAP,
    VALUE_CMAP,
    Section,
    draw_spots,
    find_section,
    frame_section,
    style,
    value_label,
)
from stpredict.slots._container import find_table, get_table
from stpredict.slots._expression import measured_matrix, to_dense
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, leak_marks, mark_words
from stpredict.slots._prediction import prediction_frame

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

_COLUMNS = ("image", "measured", "predicted", "error")
_TITLES = {"image": "H&E", "measured": "measured", "predicted": "predicted", "error": "predicted − measured"}
_PANEL = 1.9  # inches
_CLIPPED = 0.01  # share of the values beyond either end of a color scale, so that one spot does not stretch it


def genes(
    data: Container,
    genes: str | Sequence[str],
    *,
    key: str = Key.PREDICTED,
    sample: str | None = None,
    columns: Sequence[str] | None = None,
    layer: str | None = None,
    spot_size: float | None = None,
    cmap: str = VALUE_CMAP,
    error_cmap: str = ERROR_CMAP,
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
        Genes of the prediction, one row of panels each.
    key
        Slot of the prediction in `obsm`.
    sample
        Section to show; the first one by default.
    columns
        Panels of each gene, among `"image"`, `"measured"`, `"predicted"` and `"error"`; all that the section has when
        `None`: a section that was not measured shows its picture and the prediction.
    layer
        Layer with the measured values; `X` by default.
    spot_size
        Diameter of a spot in full-resolution pixels. By default that of the section's scale factors, or else 0.8 of
        the distance between spots; sections of 2000 spots and more are drawn without gaps.
    cmap
        Colormap of the values.
    error_cmap
        Diverging colormap of the error.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Axes (n_genes, n_columns). Axes are in full-resolution pixels, y downward; spots that were not measured are gray.

    Raises
    ------
    KeyError
        When the prediction, a gene, the section or a column that was asked for is missing.
    ValueError
        When there is no observation to show.
    TypeError
        When `data` is neither AnnData nor SpatialData.

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
    section = find_section(data, sample=sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    predicted = frame.to_numpy(dtype=float)[section.rows]
    measured = _measured(adata, names, section.rows, layer)
    panels = _columns(columns, section, measured)
    error = _error(measured, predicted)
    limit = _symmetric_limit(error)
    leaky = mark_words(joint_mark(leak_marks(adata, key)[section.rows]))

    with style():
        aspect = (section.box[2] - section.box[3]) / (section.box[1] - section.box[0])
        bars = 0.75 * (bool({"measured", "predicted"} & set(panels)) + ("error" in panels))
        figure, axes = plt.subplots(
            len(names),
            len(panels),
            figsize=(_PANEL * len(panels) + bars + 0.3, (_PANEL * aspect + 0.3) * len(names) + 0.4),
            squeeze=False,
            layout="constrained",
        )
        unit = value_label(adata, layer)
        for row, name in enumerate(names):
            pair = np.concatenate([measured[:, row], predicted[:, row]])
            norm = Normalize(*_limits(pair))
            values = {"measured": measured[:, row], "predicted": predicted[:, row], "error": error[:, row]}
            drawn: dict[str, Any] = {}
            for column, kind in enumerate(panels):
                ax = axes[row, column]
                last = row == len(names) - 1
                frame_section(ax, section, picture=float(kind == "image"), scale_bar=column == 0 and last)
                if kind != "image":
                    of_error = kind == "error"
                    drawn[kind] = draw_spots(
                        ax, section, values=values[kind], cmap=error_cmap if of_error else cmap,
                        norm=Normalize(-limit, limit) if of_error else norm,
                    )  # fmt: skip
                title = _title(kind, row == 0, measured[:, row], predicted[:, row], leaky)
                ax.set_title(f"{section.name}: {title}" if row == column == 0 else title)
                if column == 0:
                    ax.set_ylabel(name, fontstyle="italic", fontsize=10)
            _add_colorbars(figure, axes[row], panels, drawn, pair, unit)
    return axes


def _measured(adata: AnnData, names: Sequence[str], rows: np.ndarray, layer: str | None) -> np.ndarray:
    """Measured values (n, n_genes), NaN for genes and observations without."""
    from stpredict.slots._expression import marked_measured

    check_unique(adata.var_names, "var_names")
    values = np.full((len(rows), len(names)), np.nan)
    is_measured = np.isin(names, adata.var_names)
    if is_measured.any() and (adata.X is not None or layer is not None):
        values[:, is_measured] = to_dense(measured_matrix(adata, list(np.array(names)[is_measured]), rows, layer))
        values[~marked_measured(adata)[rows]] = np.nan
    return values


def _columns(columns: Sequence[str] | None, section: Section, measured: np.ndarray) -> list[str]:
    """Columns to show: those asked for, which must exist, or those there are."""
    has = {"image": section.image is not None, "predicted": True}
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
            f"expected {' and '.join(missing)} of section {section.name!r}; found none; leave it out of `columns`, or "
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


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.quantile(finite, [_CLIPPED, 1 - _CLIPPED])
    return (float(low), float(high)) if high > low else (float(finite.min()), float(finite.max()) + 1e-6)


def _symmetric_limit(values: np.ndarray) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(np.quantile(finite, 1 - _CLIPPED)) or 1.0 if len(finite) else 1.0


def _title(kind: str, first: bool, measured: np.ndarray, predicted: np.ndarray, leaky: str) -> str:
    from stpredict.metrics import pearson

    label = _TITLES[kind] if first else ""
    finite = np.isfinite(measured) & np.isfinite(predicted)
    if kind != "predicted" or not finite.any():
        return label
    r = float(pearson(measured[finite, None], predicted[finite, None])[0])
    score = f"r = {r:.2f}" if np.isfinite(r) else "r undefined"
    return ", ".join(part for part in (label, score, leaky) if part)


def _add_colorbars(
    figure: Any, axes: np.ndarray, shown: list[str], drawn: dict[str, Any], pair: np.ndarray, unit: str
) -> None:
    """One scale for measured and predicted, one for the error, each right of its last panel."""
    values = [kind for kind in shown if kind in {"measured", "predicted"}]
    for kinds, label in ((values, unit), (["error"] if "error" in shown else [], "difference of z-scores")):
        if not kinds:
            continue
        spots = drawn[kinds[-1]]
        against = np.concatenate([drawn[kind].get_array().compressed() for kind in kinds])
        low, high = spots.get_clim()
        below = bool(len(against) and against.min() < low)
        above = bool(len(against) and against.max() > high)
        extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
        bar = figure.colorbar(
            spots, ax=axes[shown.index(kinds[-1])], shrink=0.8, aspect=18, pad=0.02, extend=extend, extendfrac=0.03
        )
        bar.set_label(label, fontsize=8)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7, length=2)
        bar.locator = _few_ticks()
        bar.update_ticks()


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)
