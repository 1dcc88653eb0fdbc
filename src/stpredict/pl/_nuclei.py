"""Outlines of nuclei over a part of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._palette import category_colors
from stpredict.core._validate import check_positive
from stpredict.pl._color_bar import color_bar, column_label
from stpredict.pl._finished import finished
from stpredict.pl._sections import color_limits
from stpredict.pl._style import (
    VALUE_CMAP,
    Section,
    category_legend,
    frame_section,
    one_panel,
    style,
)
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

_PANEL = 4.5  # inches
_LINE = "#F5E642"  # seen on purple and on pink
_FILL = 0.45  # opacity of colored nuclei


@finished
def nuclei(
    data: Container,
    sample: str | None = None,
    *,
    center: Sequence[float] | None = None,
    side_um: float = 200.0,
    color: str | None = None,
    key: str = "nuclei",
    image: Any = None,
    ax: Axes | None = None,
    cmap: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> Axes:
    """Show the outlines of nuclei over a part of the full-resolution picture.

    Parameters
    ----------
    data
        AnnData or SpatialData, or a slide, after :func:`stpredict.pp.nuclei`.
    sample
        Section; the only one when `None`.
    center
        x and y of the center of the region in full-resolution pixels; the nucleus with the most others near by, when
        `None`.
    side_um
        Side of the region in µm.
    color
        Column of the nuclei to fill them by, such as `"type"` or `"area_um2"`; the picture is gray then.
    key
        Name of the nuclei.
    image
        Image of the section, where it is not found by itself, or a mapping from section to it.
    ax
        Axes to draw into; those of a new figure by default.
    cmap
        Colormap of the numbers in `color`.
    vmin, vmax
        Ends of its scale; those of the nuclei shown, but for the outermost 1 %, when `None`.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The axes, in full-resolution pixels.

    Raises
    ------
    KeyError
        When there are no nuclei, no image, or no column `color`.
    ValueError
        When there are several sections and none is named, or the region lies beyond the image.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 4, n_spots=4)
    >>> stp.pp.nuclei(adata)
    >>> stp.pl.nuclei(adata, color="area_um2").get_title()
    'P1_S1'
    """
    import shapely
    from matplotlib.collections import PolyCollection

    from stpredict.get import nuclei as nuclei_of

    frame = nuclei_of(data, sample, key, sample_key=sample_key, table_key=table_key)
    if color is not None and (color not in frame or color == "geometry"):
        columns = [name for name in frame.columns if name != "geometry"]
        raise KeyError(f"expected a column of the nuclei in `color`; found {color!r}; choose among {columns}")
    side_um = check_positive(side_um, "side_um")
    if center is None and len(frame):
        center = frame[["x", "y"]].to_numpy()[int(np.argmax(frame["n_near"].to_numpy()))]
    name, mpp, picture, box = _region(data, sample, image, center, side_um, sample_key, table_key, key)
    shown = frame[shapely.intersects(frame.geometry.to_numpy(), shapely.box(box[0], box[3], box[1], box[2]))]
    section = Section(name, np.empty(0, dtype=int), np.empty((0, 2)), 0.0, mpp, picture, box)
    with style():
        ax = one_panel(ax, _PANEL + (1.1 if color is not None else 0), _PANEL + 0.5)
        frame_section(ax, section, picture=color is None, under=color is not None, scale_bar=True)
        lines = [shapely.get_coordinates(shape) for shape in shown.geometry]
        outlines = PolyCollection(lines, facecolors="none", edgecolors=_LINE, linewidths=1.0, zorder=2, label="nuclei")
        ax.add_collection(outlines, autolim=False)
        if color is not None:
            _colored(ax, outlines, shown[color], color, cmap, (vmin, vmax))
        ax.set_title(name)
    return ax


def _region(
    data: Any, sample: str | None, image: Any, center: Any, side_um: float, sample_key: str, table_key: str, key: str
) -> tuple[str, float, np.ndarray, tuple[float, float, float, float]]:
    """Name, µm per pixel, picture and limits (left, right, bottom, top) of a square region."""
    from stpredict.io._image import microns_per_pixel, section_image
    from stpredict.io._slide import is_slide, slide_microns_per_pixel, slide_name, slide_reader, slide_size, windows_of
    from stpredict.slots._container import get_table
    from stpredict.slots._provenance import read_record

    if is_slide(data) and table_key not in data.tables:
        name, mpp = slide_name(data), slide_microns_per_pixel(data)
        middle, side = _middle(center, slide_size(data)), max(1, round(side_um / mpp))
        with slide_reader(data) as reader:
            windows = windows_of(reader, middle[None], side, min(side, 1200))
            (_, pixels), scale = (
                next(windows.read(reader, np.arange(1))),
                reader.properties.level_downsample[windows.level],
            )
        corner, width = windows.corner[0] * (scale or 1), windows.side * (scale or 1)
    else:
        adata = get_table(data, table_key)
        name = str(adata.obs[sample_key].astype(str).iloc[0] if sample is None else sample)
        scales: Mapping[str, float] = (read_record(adata, key) or {}).get("microns_per_pixel", {})
        mpp = microns_per_pixel(adata, name, scales.get(name))
        full = section_image(data, adata, name, image)
        try:
            middle, width = _middle(center, (full.width, full.height), full.origin), max(1, round(side_um / mpp))
            corner = full.corners(middle[None], width)[0] + full.origin
            _, pixels = next(full.windows(middle[None], width, 1))
        finally:
            full.close()
    left, top = map(float, corner)
    return name, mpp, pixels[0], (left, left + width, top + width, top)


def _middle(center: Any, size: tuple[int, int], origin: Any = (0.0, 0.0)) -> np.ndarray:
    low, high = np.asarray(origin, dtype=np.float64), np.asarray(origin) + np.asarray(size, dtype=np.float64)
    middle = (low + high) / 2 if center is None else np.asarray(center, dtype=np.float64)
    if middle.shape != (2,) or not np.isfinite(middle).all() or ((middle < low) | (middle > high)).any():
        raise ValueError(
            f"expected center as x and y on the picture, from {low.tolist()} to {high.tolist()}; found {center!r}"
        )
    return middle


def _colored(
    ax: Axes, outlines: Any, values: Any, color: str, cmap: str | None, ends: tuple[float | None, float | None]
) -> None:
    """Fill nuclei by a column, so that the picture is seen through them, and say what the colors mean."""
    import matplotlib as mpl
    import pandas as pd
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import to_rgba_array

    if pd.api.types.is_numeric_dtype(values):
        scale = ScalarMappable(cmap=mpl.colormaps[cmap or VALUE_CMAP])
        numbers = values.to_numpy(dtype=np.float64)
        scale.set_clim(*color_limits(numbers, *ends))
        rgba = scale.to_rgba(numbers)
        color_bar(scale, ax, column_label(color), shrink=0.6, values=numbers)
    else:
        names = sorted(values.astype(str).unique())
        palette = dict(zip(names, category_colors(len(names)), strict=True))
        rgba = to_rgba_array([palette[name] for name in values.astype(str)])
        category_legend(ax, names, [palette[name] for name in names], title=color)
    outlines.set(edgecolor=rgba, linewidth=1.2)
    outlines.set_facecolor(rgba * [1, 1, 1, _FILL])
