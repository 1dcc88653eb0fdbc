"""Maps of slides: measured beside predicted where there is a truth, predicted over the picture where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_choice, check_unique
from stpredict.pl._color_bar import color_bar
from stpredict.pl._finished import finished
from stpredict.pl._sections import (
    FLAT,
    color_limits,
    find_sections,
    is_flat,
    measured_spread,
    picture_place,
    range_text,
    training_spread,
    usual_range,
)
from stpredict.pl._style import (
    VALUE_CMAP,
    Section,
    frame_section,
    given_axes,
    leave_room,
    name_style,
    style,
    value_label,
)
from stpredict.pl._tile_shapes import draw_tiles, tile_shape
from stpredict.slots._container import find_table, get_table
from stpredict.slots._features import is_tile_table
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, leak_marks, mark_words
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._truth import measured_values_of, predicts_values
from stpredict.tl.judge._compare_to_st import MEASURED_ST, percentiles

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

_PANEL = 2.1  # inches
_TALLEST = 2.0  # height of a panel over its width: a narrow strip of tiles would fill a page
_MAX_EXACT = 1500  # tiles up to which a title is worth an exact distance
_FLAT = "#B0B0B0"
SCALES = ("percentile", "value")


@dataclass
class _Panel:
    """One map: what it shows and what is written above it."""

    section: Section
    values: np.ndarray
    title: str
    gene: str = ""  # left of it
    flat: bool = False


@dataclass(frozen=True)
class _Look:
    """How all maps of a figure are drawn."""

    cmap: str
    opacity: float
    picture: str
    scale: str
    label: str  # of the color bars
    face: Literal["italic", "normal"]
    ends: tuple[float | None, float | None]


@finished
def maps(
    data: Container,
    genes: str | Sequence[str],
    *,
    key: str = Key.PREDICTED,
    measured_key: str | None = MEASURED_ST,
    scores: pd.DataFrame | None = None,
    sample: str | Sequence[str] | None = None,
    scale: Literal["percentile", "value"] = "percentile",
    n_columns: int | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    cmap: str = VALUE_CMAP,
    picture: Literal["under", "beside", "none"] | None = None,
    opacity: float | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> np.ndarray:
    """Map genes on a slide, in percentiles over its tiles: measured beside predicted, or predicted over the picture.

    Both maps of a pair cover the tiles that were measured, so that a percentile means the same in both. Titles give the
    correlation of the percentiles and the earth mover's distance with that of a uniform map, as
    :func:`stpredict.tl.compare_to_st` does. Tiles without a value are gray.

    Percentiles have the same contrast whatever the amplitude. Every title therefore gives the range of the prediction,
    from its 1st to its 99th percentile, and a map that is practically constant is flat and says so: its range is less
    than 5 % of the standard deviation between the patients (or sections) of the training, or, where that is not
    recorded, 1 % of the standard deviation of what was measured, or 0.1 % of its value.

    Parameters
    ----------
    data
        AnnData of tiles or slide (SpatialData) with a predicted map.
    genes
        Genes of the prediction, one pair of panels each, or one panel each without a measured map.
    key
        Slot of the prediction in `obsm`.
    measured_key
        Slot of the measured map that :func:`stpredict.tl.compare_to_st` writes; where there is none, predictions of values
        stand beside the values that the model found there, and of others only the prediction is shown, as with `None`.
    scores
        Table that :func:`stpredict.tl.compare_to_st` returned, for the titles; when `None`, the scores are computed for
        the genes shown, exactly up to 1,500 tiles and sliced above.
    sample
        Slide to show, several, or `"all"`; the first one by default, with a note where there are others.
    scale
        `"percentile"` over the tiles, or `"value"`: every map has the scale of its own values.
    n_columns
        Number of genes side by side, for one slide; when `None`, up to 2 with a measured map and up to 4 without.
        Several slides have a row each.
    ax
        Axes to draw into, one per map in the order of what is returned; those of a new figure by default.
    cmap
        Colormap.
    picture
        Where the picture is: `"under"` the tiles, pale and gray, `"beside"` them in a panel of its own at the left, or
        `"none"`. When `None`, beside slides of 1,000 tiles and more, which would hide it, and under others; none with
        measured maps, or under them with an `opacity` below 1.
    opacity
        Opacity of the tiles, 0–1; when `None`, 0.75 over the picture and 1 elsewhere.
    vmin, vmax
        Ends of the color scale of every map, with `scale="value"`.
    sample_key
        Column of `obs` that names the slide.
    table_key
        Table of a SpatialData; of a slide, the table with the prediction is found.

    Returns
    -------
    Axes (n_genes, 2) of measured and predicted maps, or (n_genes, 1) of predicted ones; with several slides
    (n_slides, n_genes, 2) or (n_slides, n_genes, 1), without those of a picture beside them. Axes are in full-resolution
    pixels, y downward.

    Raises
    ------
    KeyError
        When the prediction, a gene or the slide is missing.
    ValueError
        When there is no tile to show, or an option is out of range.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When the object has several slides and `sample` names none.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> row, col = np.mgrid[:8, :8].reshape(2, -1)
    >>> tiles = ad.AnnData(obs=pd.DataFrame({"sample": "s"}, index=[f"tile{i}" for i in range(64)]))
    >>> tiles.obsm["spatial"] = np.column_stack([col, row]) * 256.0
    >>> tiles.obsm["predicted"] = pd.DataFrame({"A": row * 1.0, "B": col * 1.0}, index=tiles.obs_names)
    >>> axes = stp.pl.maps(tiles, ["A", "B"])
    >>> axes.shape
    (2, 1)
    """
    check_choice(scale, SCALES, "scale")
    if scale == "percentile" and (vmin is not None or vmax is not None):
        raise ValueError(
            "expected `vmin` and `vmax` with scale='value'; found scale='percentile', which goes from 0 to 100"
        )
    table_key = find_table(data, table_key, key)
    adata = get_table(data, table_key)
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    frame = prediction_frame(adata, key, names)
    sections = find_sections(data, sample, spot_size=None, sample_key=sample_key, table_key=table_key)
    one = len(sections) == 1 and (sample is None or isinstance(sample, str))
    measured = [_measured(adata, key, measured_key, names, section) for section in sections]
    pairs = any(values is not None for values in measured)
    if n_columns is not None and n_columns < 1:
        raise ValueError(f"expected n_columns of at least 1; found {n_columns}")
    if opacity is not None and not 0 < opacity <= 1:
        raise ValueError(f"expected an opacity above 0 and up to 1; found {opacity}")
    if picture is None and pairs:
        picture = "under" if opacity is not None and opacity < 1 else "none"
    picture = picture_place(sections, picture, own_axes=ax is None)
    if opacity is None:
        opacity = 0.75 if picture == "under" else 1.0
    spreads, unit = (
        (training_spread(adata, key, names), measured_spread(adata, key, names)),
        value_label(adata, None, key),
    )
    panels = [
        panel
        for section, truth in zip(sections, measured, strict=True)
        for panel in _panels(
            section, names, frame.to_numpy(dtype=float)[section.rows], truth, scores, spreads, pairs,
            mark_words(joint_mark(leak_marks(adata, key)[section.rows])),
        )
    ]  # fmt: skip
    width = 2 if pairs else 1
    most = n_columns or (2 if pairs else 4)
    below = -(-len(names) // most)
    beside = len(names) if not one else (min(most, len(names)) if n_columns else -(-len(names) // below))
    what = "tiles" if is_tile_table(adata) else "observations"
    label = f"percentile over {what},\nranges in {unit}" if scale == "percentile" else unit
    look = _Look(cmap, opacity, picture, scale, label, name_style(adata, key), (vmin, vmax))
    axes = _draw(panels, beside * width, look, given_axes(ax, len(panels)))
    return axes.reshape((len(names), width) if one else (len(sections), len(names), width))


def _panels(
    section: Section,
    names: list[str],
    predicted: np.ndarray,
    measured: np.ndarray | None,
    scores: pd.DataFrame | None,
    spreads: tuple[np.ndarray, np.ndarray],
    pairs: bool,
    leaky: str,
) -> list[_Panel]:
    """Panels of a section: of every gene its prediction, in a figure of pairs the measured map before it."""
    mark = f" ({leaky})" if leaky else ""
    titles = [""] * len(names)
    if measured is not None:
        titles = [f", {_title(*row)}" for row in _scores(scores, section, names, measured, predicted)]
        predicted = np.where(np.isfinite(measured), predicted, np.nan)
    panels = []
    for number, name in enumerate(names):
        own = predicted[:, number]
        low, high = usual_range(own)
        flat = is_flat(low, high, *(float(spread[number]) for spread in spreads))
        amplitude = range_text(low, high) + (f"\n{FLAT}" if flat else "")
        before = f"{section.name}: " if number == 0 else ""
        if pairs:
            truth = np.full(len(own), np.nan) if measured is None else measured[:, number]
            panels.append(_Panel(section, truth, f"{before}measured", name))
            panels.append(_Panel(section, own, f"predicted{mark}{titles[number]}\n{amplitude}", flat=flat))
        else:
            panels.append(_Panel(section, own, f"{before}{name}{mark}\n{amplitude}", flat=flat))
    return panels


def _draw(panels: list[_Panel], beside: int, look: _Look, given: list[Axes] | None) -> np.ndarray:
    """Axes (n_panels,), in a new figure with so many side by side, after the picture of their slide where it is beside."""
    shapes = {id(panel.section): tile_shape(panel.section) for panel in panels}
    with style():
        axes = _new_axes(panels, beside, look) if given is None else np.array(given, dtype=object)
        for number, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            last = number + beside >= len(panels) or panels[number + beside].section is not panel.section
            scale_bar = last and number % beside == 0 and look.picture != "beside"
            frame_section(ax, panel.section, under=look.picture == "under" and not panel.flat, scale_bar=scale_bar)
            by_rank = look.scale == "percentile"
            values = _percentiles(panel.values) if by_rank else panel.values
            limits = (0.0, 100.0) if by_rank else color_limits(values, *look.ends)
            drawn = draw_tiles(
                ax, panel.section, shapes[id(panel.section)], values, cmap=look.cmap, limits=limits,
                opacity=look.opacity, flat=_FLAT if panel.flat else None,
            )  # fmt: skip
            ax.set_title(panel.title, fontsize=8)
            if panel.gene:
                ax.set_ylabel(panel.gene, fontstyle=look.face, fontsize=10)
            if look.scale == "value" and not panel.flat and np.isfinite(values).any():
                color_bar(drawn, ax, look.label, values=panel.values)
        if look.scale == "percentile" and not all(panel.flat for panel in panels):
            _percentile_bar(axes, look, -(-len(panels) // beside))
    return axes


def _new_axes(panels: list[_Panel], beside: int, look: _Look) -> np.ndarray:
    """Axes (n_panels,) of a new figure, which has the pictures too where they are beside the maps."""
    import matplotlib.pyplot as plt

    below = -(-len(panels) // beside)
    extra = int(look.picture == "beside")
    aspect = [(panel.section.box[2] - panel.section.box[3]) / (panel.section.box[1] - panel.section.box[0]) for panel in panels]  # fmt: skip
    heights = [min(max(aspect[row * beside : (row + 1) * beside]), _TALLEST) for row in range(below)]
    lines = max(panel.title.count("\n") for panel in panels) + 1
    room = 0.9 * beside if look.scale == "value" else 0.8
    size = (_PANEL * (beside + extra) + room, sum(_PANEL * height + 0.2 * lines for height in heights) + 0.3)
    figure, grid = plt.subplots(
        below, beside + extra, figsize=size, squeeze=False, layout="constrained", height_ratios=heights
    )
    leave_room(figure)
    shown: set[int] = set()
    for row, pane in enumerate(grid[:, 0] if extra else []):
        section = panels[row * beside].section
        if id(section) in shown:
            pane.remove()
            continue
        shown.add(id(section))
        frame_section(pane, section, picture=True, scale_bar=True)
        pane.set_title(f"{section.name}: H&E", fontsize=8)
    axes = grid[:, extra:].ravel()
    for spare in axes[len(panels) :]:
        spare.remove()
    return np.array(axes[: len(panels)], dtype=object)


def _percentile_bar(axes: np.ndarray, look: _Look, below: int) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, 100), look.cmap)
    color_bar(scale, axes.tolist(), look.label, shrink=min(1.0, 0.8 / below + 0.1)).set_ticks([0, 25, 50, 75, 100])


def _measured(
    adata: AnnData, key: str, measured_key: str | None, names: list[str], section: Section
) -> np.ndarray | None:
    """Measured map of the slide (n_tiles, n_genes), NaN for genes and tiles without; `None` where there is none."""
    if measured_key is None:
        return None
    if measured_key in adata.obsm:
        frame = prediction_frame(adata, measured_key)
    elif predicts_values(adata, key):
        frame = measured_values_of(adata, key, names)
    else:
        return None
    check_unique(names, "genes")
    values = frame.reindex(columns=names).to_numpy(dtype=float)[section.rows]
    return values if np.isfinite(values).any() else None


def _scores(
    scores: pd.DataFrame | None, section: Section, names: list[str], measured: np.ndarray, predicted: np.ndarray
) -> list[tuple[float, float, float]]:
    """Correlation, distance and distance of a uniform map of each gene."""
    from stpredict.tl.judge._compare_to_st import score_maps

    columns = ["pearson", "emd", "emd_uniform"]
    if scores is not None:
        missing = [name for name in ("gene", "sample", *columns) if name not in scores]
        if missing:
            raise KeyError(f"expected the table of stp.tl.compare_to_st; found one without {', '.join(missing)}")
        table = scores[scores["sample"].astype(str) == section.name].set_index("gene")[columns]
        check_unique(table.index, f"genes of section {section.name!r} in the table of scores")
        return [tuple(row) for row in table.reindex(names).to_numpy(dtype=float)]
    values = np.full((len(names), 3), np.nan)
    is_measured = np.isfinite(measured)
    # compare_to_st leaves out the same tiles for all genes it wrote; a gene that it did not write has none.
    with_values = np.flatnonzero(is_measured.any(axis=0))
    rows = is_measured[:, with_values].all(axis=1)
    if rows.sum() > 1:
        method: Any = "exact" if rows.sum() <= _MAX_EXACT else "sliced"
        computed = score_maps(
            measured[np.ix_(rows, with_values)], predicted[np.ix_(rows, with_values)], section.xy[rows], min_unique=2,
            method=method, n_jobs=1,
        )  # fmt: skip
        values[with_values] = np.column_stack([computed[name] for name in columns])
    return [tuple(row) for row in values]


def _title(r: float, distance: float, uniform: float) -> str:
    if not np.isfinite([r, distance]).any():
        return "not scored"
    correlation = f"r = {r:.2f}" if np.isfinite(r) else "r undefined"
    return f"{correlation}\nEMD {distance:.3f}, uniform {uniform:.3f}"


def _percentiles(values: np.ndarray) -> np.ndarray:
    """Percentile of each value among the finite ones."""
    finite = np.isfinite(values)
    result = np.full(len(values), np.nan)
    result[finite] = percentiles(values[finite, None])[:, 0] if finite.any() else np.nan
    return result
