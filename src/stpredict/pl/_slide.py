"""A whole slide with its tissue and tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._palette import PALETTE, category_colors
from stpredict.pl._color_bar import color_bar, column_label
from stpredict.pl._finished import finished
from stpredict.pl._sections import FLAT, color_limits, is_flat, range_text, training_spread, usual_range
from stpredict.pl._style import (
    INK,
    LIGHT_GRAY,
    VALUE_CMAP,
    Section,
    category_legend,
    frame_section,
    gray,
    one_panel,
    style,
    value_label,
)
from stpredict.slots._keys import Key
from stpredict.slots._prediction import prediction_frame, prediction_names

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

_MAX_SIDE = 1600  # pixels of the picture
_PANEL = 4.5  # inches
_TISSUE = PALETTE[0]


@finished
def slide(
    data: SpatialData,
    *,
    tiles: bool = True,
    tissue: bool = True,
    color: str | None = None,
    key: str = Key.PREDICTED,
    ax: Axes | None = None,
    cmap: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    alpha: float = 0.75,
    tile_key: str = "tiles",
    tissue_key: str = "tissues",
    table_key: str | None = None,
) -> Axes:
    """Show a slide with the outlines of its tissue and its tiles.

    Parameters
    ----------
    data
        Slide of :func:`stpredict.io.open_slide`.
    tiles
        Whether to draw tiles, where the slide has any.
    tissue
        Whether to draw outlines of the tissue, where the slide has any.
    color
        Values to fill the tiles by: a column of `obs` of the tile table, a predicted gene, or a column of the tiles
        themselves; no fill when `None`.
    key
        Slot in `obsm` of the tile table with predictions.
    ax
        Axes to draw into; those of a new figure by default.
    cmap
        Colormap of the numbers in `color`.
    vmin, vmax
        Values at the ends of the colormap; those of the tiles, but for the outermost 1 %, by default.
    alpha
        Opacity of the filled tiles.
    tile_key, tissue_key
        Names of the shapes with the tiles and with the outlines of the tissue.
    table_key
        Name of the tile table; the only one with `color` when `None`.

    Returns
    -------
    The axes, in level-0 pixels. Under colors the picture is gray. The title gives the range of a predicted gene, and says
    where it is practically constant, by the rule of :func:`stpredict.pl.maps`.

    Raises
    ------
    KeyError
        When nothing is named `color`, or there are no tiles to color.
    ValueError
        When several tile tables have `color`.
    TypeError
        When `sdata` is not a slide of :func:`stpredict.io.open_slide`.
    FileNotFoundError
        When the file of the slide is missing.
    ImportError
        When wsidata is not installed (extra `wsi`).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np, tifffile
    >>> import stpredict as stp
    >>> picture = np.full((1024, 1024, 3), 245, np.uint8)
    >>> picture[256:768, 256:768] = (190, 100, 160)
    >>> path = Path(tempfile.mkdtemp()) / "slide.tiff"
    >>> tifffile.imwrite(path, picture, tile=(256, 256), photometric="rgb")
    >>> opened = stp.io.open_slide(path, microns_per_pixel=0.5)
    >>> stp.pp.tissue(opened)
    >>> ax = stp.pl.slide(opened)
    >>> ax.get_title()
    'slide'
    """
    from stpredict.io._slide import (
        check_slide,
        slide_microns_per_pixel,
        slide_name,
        slide_reader,
        slide_size,
        slide_thumbnail,
    )

    check_slide(data)
    mpp = slide_microns_per_pixel(data)
    values, label, told = (None, "", "") if color is None else _values(data, color, key, tile_key, table_key)
    with slide_reader(data) as reader:
        picture, factor = slide_thumbnail(reader, mpp, mpp, max_side=_MAX_SIDE)
    width, height = slide_size(data)
    box = (0.0, float(width), float(height), 0.0)
    section = Section(slide_name(data), np.empty(0, dtype=int), np.empty((0, 2)), 0.0, mpp, None, box)
    with style():
        panel_height = float(np.clip(_PANEL * height / width, 1.5, 8)) + 0.5
        ax = one_panel(ax, _PANEL + (1.1 if values is not None else 0), panel_height)
        right, bottom = picture.shape[1] * factor, picture.shape[0] * factor
        shown = picture if values is None else gray(picture)
        ax.imshow(shown, extent=(0, right, bottom, 0), aspect="equal", interpolation="antialiased", zorder=0)
        if tissue and tissue_key in data.shapes:
            _draw_tissue(ax, data.shapes[tissue_key].geometry)
        if (tiles or values is not None) and tile_key in data.shapes:
            _draw_tiles(ax, data.shapes[tile_key].geometry, values, label, cmap, (vmin, vmax), alpha)
        frame_section(ax, section, scale_bar=True)
        ax.set_title(section.name + told)
    return ax


def _values(
    sdata: SpatialData, color: str, key: str, tile_key: str, table_key: str | None
) -> tuple[pd.Series, str, str]:
    """What to color the tiles with, in their order, missing for tiles without a value; its label; a line of the title."""
    from stpredict.io._slide import tile_frame

    frame = tile_frame(sdata, tile_key)
    tables = {
        name: table
        for name, table in sdata.tables.items()
        if Key.TILE_ID in table.obs and table.uns.get("spatialdata_attrs", {}).get("region") in (tile_key, [tile_key])
    }
    if table_key is not None:
        if table_key not in tables:
            raise KeyError(
                f"expected a table {table_key!r} of {tile_key!r}; found {sorted(tables)}; correct `table_key=`"
            )
        tables = {table_key: tables[table_key]}
    matches = {name: column for name, table in tables.items() if (column := _column(table, color, key)) is not None}
    if len(matches) > 1:
        raise ValueError(
            f"expected one tile table with {color!r}; found it in {sorted(matches)}; choose with `table_key=`"
        )
    if matches:
        ((name, column),) = matches.items()
        values = column.reindex(frame["tile_id"].to_numpy())
        if color in tables[name].obs:
            return values, column_label(color), ""
        spread = float(training_spread(tables[name], key, [color])[0])
        low, high = usual_range(values.to_numpy(dtype=np.float64))
        told = f"\n{range_text(low, high)}" + (f": {FLAT}" if is_flat(low, high, spread) else "")
        return values, f"{color}, {value_label(tables[name], None, key, color)}", told
    if table_key is None and color in frame and color != "geometry":
        return frame[color], column_label(color), ""
    raise KeyError(
        f"expected {color!r} among the columns of obs, the genes of obsm[{key!r}] in the tile tables {sorted(tables)}, or "
        f"the columns of shapes[{tile_key!r}]; found none; run stp.tl.predict, or correct `color=`"
    )


def _column(table: AnnData, color: str, key: str) -> pd.Series | None:
    """Column of `obs` or predicted gene, indexed by tile; `None` where the table has neither."""
    names = prediction_names(table, key) if key in table.obsm else None
    if color in table.obs:
        column = table.obs[color]
    elif names is not None and color in names:
        column = prediction_frame(table, key, [color])[color]
    else:
        return None
    return column.set_axis(table.obs[Key.TILE_ID].to_numpy())


def _draw_tissue(ax: Axes, geometry: Any) -> None:
    """Outlines of the tissue, holes included, in one artist."""
    import shapely
    from matplotlib.collections import LineCollection

    points, ring = shapely.get_coordinates(shapely.get_rings(shapely.get_parts(geometry.to_numpy())), return_index=True)
    lines = np.split(points, np.flatnonzero(np.diff(ring)) + 1)
    ax.add_collection(LineCollection(lines, colors=_TISSUE, linewidths=0.9, zorder=3, label="tissue"), autolim=False)


def _draw_tiles(
    ax: Axes,
    geometry: Any,
    values: pd.Series | None,
    label: str,
    cmap: str | None,
    ends: tuple[float | None, float | None],
    alpha: float,
) -> None:
    """Tiles in one artist: their outlines, or filled with values."""
    import matplotlib as mpl
    import pandas as pd
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import Normalize

    left, top, right, bottom = geometry.bounds.to_numpy().T
    corners = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).reshape(-1, 4, 2)
    boxes = PolyCollection(list(corners), linewidths=0.4, zorder=2, label="tiles")
    if values is None:
        boxes.set(facecolor="none", edgecolor=INK, alpha=0.7)
        ax.add_collection(boxes, autolim=False)
        return
    boxes.set(edgecolor="none", linewidth=0, alpha=alpha)
    ax.add_collection(boxes, autolim=False)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        boxes.set_cmap(mpl.colormaps[cmap or VALUE_CMAP].with_extremes(bad=LIGHT_GRAY))
        numbers = values.to_numpy(dtype=np.float64)
        boxes.set_norm(Normalize(*color_limits(numbers, *ends)))
        boxes.set_array(np.ma.masked_invalid(numbers))
        color_bar(boxes, ax, label, shrink=0.6, values=numbers)
        return
    text = values.astype(object).where(values.notna(), "").astype(str)
    names = [name for name in dict.fromkeys(sorted(text)) if name]
    palette = dict(zip(names, category_colors(len(names)), strict=True)) | {"": LIGHT_GRAY}
    boxes.set_facecolor([palette[name] for name in text])
    category_legend(ax, names, [palette[name] for name in names], title=label)
