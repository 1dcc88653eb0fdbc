"""What the figures share: palette, type sizes, axes, and the picture and spots of a section."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._palette import PALETTE
from stpredict.core._validate import check_finite, check_positive
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._container import get_table, is_spatialdata
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of
from stpredict.slots._prediction import SOURCE, what_columns
from stpredict.slots._sections import section_entry

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from stpredict.slots._container import Container

BLUE, VERMILION, GREEN, ORANGE = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[4]
GRAY, LIGHT_GRAY, INK = "#8C8C8C", "#D9D9D9", "#333333"
VALUE_CMAP, ERROR_CMAP = "viridis", "RdBu_r"
_MAX_IMAGE_SIDE = 1200  # pixels of a section's picture in a figure
_RASTERIZE_FROM = 5000  # spots; more make a vector file that no viewer opens
_DENSE_FROM = 2000  # spots; drawn to scale they would be dots of a pixel, paler than their color
_WIDE = 0.8  # of the distance between spots, at least: a map is read from its areas
_PALE = 0.7  # opacity of a gray picture, so that what is drawn on it stands out
_TILING = 2**0.5 + 0.01  # diameter over distance at which circles on a square lattice leave no gap
_RC = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "figure.dpi": 150,
}


def style() -> AbstractContextManager[None]:
    """Fonts and lines of the package, for the artists made within; the settings of the user come back after it."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    # Loads the backend. A notebook's becomes interactive then; within the context, leaving it would undo that, and no
    # later figure would be shown.
    plt.draw_if_interactive()
    return mpl.rc_context(_RC)  # type: ignore[arg-type]


def leave_room(figure: Figure) -> None:
    """Keep titles inside: beside panels of a fixed aspect the layout comes out some points too tight."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(h_pad=0.1)  # type: ignore[call-arg]  # inches


def one_panel(ax: Axes | None, width: float, height: float) -> Axes:
    """Return `ax`, or the axes of a new figure of this size in inches."""
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(figsize=(width, height), layout="constrained")[1]
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise TypeError(f"expected `ax` to be matplotlib Axes; found {type(ax).__name__}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=_RC["xtick.labelsize"])
    return ax


def given_axes(ax: Any, n: int) -> list[Axes] | None:
    """The axes in `ax`, one for each of `n` panels; `None` where there are none."""
    if ax is None:
        return None
    axes = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != n:
        raise ValueError(f"expected {n} axes in `ax`, one per panel; found {len(axes)}")
    return [one_panel(panel, 0, 0) for panel in axes]


def chosen_limits(own: tuple[float, float], vmin: float | None, vmax: float | None) -> tuple[float, float]:
    """Ends of a color scale: those that were asked for, and the data's own where none was."""
    low, high = own[0] if vmin is None else float(vmin), own[1] if vmax is None else float(vmax)
    if not low < high:
        raise ValueError(f"expected vmin below vmax; found {low:g} and {high:g}")
    return low, high


_LABELS = {"pearson_residuals": "Pearson residual", "rate": "rate per count"}


def value_label(adata: AnnData, layer: str | None, key: str = Key.PREDICTED, name: str | None = None) -> str:
    """Unit of the measured and predicted values, for a colorbar: that of the table, or that of the prediction.

    Values may have a unit each; without a `name`, that of all of them.
    """
    from stpredict.slots._provenance import read_record

    if layer is not None:
        return layer
    own = read_record(adata, key) or {}
    if SOURCE in own:
        units = dict(zip(own["values"], own.get("units") or [""] * len(own["values"]), strict=True))
        found = {units[name]} if name is not None else set(units.values())
        plain = "fraction" if own.get("link") == "softmax" else "value"
        return (found.pop() if len(found) == 1 else "own units") or plain
    unit = own.get("unit") or {}
    record = unit if unit.get("method") == "rate" else read_record(adata, "normalize") or unit or None
    if record is not None and record.get("method") == "layer":
        return str(record["layer"])
    if record is not None and record.get("method") == "log2p1":
        return f"log2({record['unit'].upper()} + 1)"
    if record is not None and record.get("method") in _LABELS:
        return _LABELS[record["method"]]
    if record is None or record.get("method") != "log1p":
        return "expression (log1p)" if "log1p" in adata.uns else "expression"
    if record["target_sum"] == "median":
        return "log1p counts per median depth"
    return f"log1p counts per {record['target_sum']:,.0f}".replace(",", "\u202f")


def name_style(adata: AnnData, key: str) -> Literal["italic", "normal"]:
    """Genes are set in italics; values and classes are not."""
    return "italic" if what_columns(adata, key) == "genes" else "normal"


@dataclass
class Section:
    """Spots and picture of one section, both in full-resolution pixels.

    Attributes
    ----------
    name
        Its name in `obs[sample_key]`.
    rows
        (n,) indices of its in-tissue observations.
    xy
        (n, 2) their centers.
    diameter
        Diameter of a spot as drawn.
    microns_per_pixel
        µm per pixel, where known.
    image
        Picture, uint8 (h, w, 3), cropped to the spots, where there is one.
    box
        Left, right, bottom and top limits of the panel; y grows downward.
    """

    name: str
    rows: np.ndarray
    xy: np.ndarray
    diameter: float
    microns_per_pixel: float | None
    image: np.ndarray | None
    box: tuple[float, float, float, float]


def find_section(
    data: Container,
    *,
    sample: str | None,
    spot_size: float | None,
    sample_key: str,
    table_key: str,
    picture: bool = True,
    to_scale: bool = False,
) -> Section:
    """Find one section of an object; the first one when `sample` is `None`.

    Spots are as wide as the scale factors say, but at least 0.8 of the distance between them, unless they are to be
    `to_scale`.
    """
    adata = get_table(data, table_key)
    check_obsm(adata, Key.SPATIAL, "read the data with stp.io, which writes positions")
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    if adata.n_obs == 0:
        raise ValueError("expected at least one observation; found none")
    names = adata.obs[sample_key].astype(str).to_numpy()
    name = str(names[0] if sample is None else sample)
    if name not in set(names):
        raise KeyError(f"expected a section of obs[{sample_key!r}]; found {name!r}; choose among {sorted(set(names))}")
    rows = np.flatnonzero((names == name) & in_tissue(adata))
    if not len(rows):
        raise ValueError(f"expected in-tissue observations in section {name!r}; found none")
    xy = positions_of(adata)[rows]
    check_finite(xy, f"positions of section {name!r}", f"correct obsm[{Key.SPATIAL!r}]")
    factors = section_entry(adata, name).get("scalefactors", {})
    mpp = factors.get("microns_per_pixel")
    if spot_size is not None:
        diameter = check_positive(spot_size, "spot_size")
    else:
        apart = spacing(xy)
        diameter = float(factors.get("spot_diameter_fullres") or _WIDE * apart)
        diameter = diameter if to_scale else max(diameter, _WIDE * apart)
        if len(xy) >= _DENSE_FROM:
            diameter = max(diameter, _TILING * apart)
    margin = max(1.5 * diameter, 0.03 * float(np.ptp(xy, axis=0).max()))
    (left, top), (right, bottom) = xy.min(axis=0) - margin, xy.max(axis=0) + margin
    box = (float(left), float(right), float(bottom), float(top))
    image = _picture(data, adata, name, box) if picture else None
    return Section(name, rows, xy, diameter, None if mpp is None else float(mpp), image, box)


def spacing(xy: np.ndarray) -> float:
    """Median distance to the nearest neighbor; 1 where there is one spot."""
    if len(xy) < 2:
        return 1.0
    from scipy.spatial import KDTree

    return float(np.median(KDTree(xy).query(xy, k=2)[0][:, 1])) or 1.0


def _picture(data: Container, adata: AnnData, sample: str, box: tuple[float, float, float, float]) -> np.ndarray | None:
    """Picture within the box, padded with white; `None` where the section has none."""
    from stpredict.io._image import SectionImage

    source, scale = _stored_picture(data, adata, sample)
    if source is None:
        return None
    left, right, bottom, top = (value * scale for value in box)
    size = np.maximum(np.round([bottom - top, right - left]).astype(int), 1)
    corner = np.round([top, left]).astype(int)
    start, stop = np.maximum(corner, 0), np.minimum(corner + size, [source.height, source.width])
    if (start >= stop).any():
        return None
    canvas = np.full((*size, 3), 255, dtype=np.uint8)
    part = source.band(int(start[0]), int(stop[0]))[:, start[1] : stop[1]]
    at = start - corner
    canvas[at[0] : at[0] + part.shape[0], at[1] : at[1] + part.shape[1]] = part
    return SectionImage(canvas).thumbnail(_MAX_IMAGE_SIDE)[0]


def _stored_picture(data: Container, adata: AnnData, sample: str) -> tuple[Any, float]:
    """Smallest sufficient picture of a section, and its pixels per full-resolution pixel."""
    from stpredict.io._image import SectionImage, element_names, element_scale, section_image

    entry = section_entry(adata, sample)
    for name in ("hires", "lowres"):
        factor = entry.get("scalefactors", {}).get(f"tissue_{name}_scalef")
        if name in entry.get("images", {}) and factor is not None:
            return SectionImage(entry["images"][name]), float(factor)
    if is_spatialdata(data):
        for name in element_names(sample, "_hires_image", "_image", "_full_image", ""):
            if name in data.images:
                return _element_picture(data.images[name], element_scale(data.images[name], sample))
    try:
        full = section_image(data, adata, sample)
        small, factor = full.thumbnail(2 * _MAX_IMAGE_SIDE)
    except (KeyError, FileNotFoundError):
        return None, 1.0
    return SectionImage(small), factor


def _element_picture(element: Any, scale: float) -> tuple[Any, float]:
    """Level of an image element that is just large enough for a figure."""
    from stpredict.io._image import SectionImage

    if not hasattr(element, "groups"):
        return SectionImage(element), 1 / scale
    levels = [element[name]["image"] for name in element.children]
    full = levels[0].sizes["y"]
    enough = [level for level in levels if max(level.sizes["y"], level.sizes["x"]) >= 2 * _MAX_IMAGE_SIDE]
    level = enough[-1] if enough else levels[0]
    return SectionImage(level), level.sizes["y"] / full / scale


def frame_section(
    ax: Axes, section: Section, *, picture: bool = False, scale_bar: bool = False, under: bool = False
) -> None:
    """Set limits and aspect of a section's panel, hide its ticks, and lay its picture in it.

    A picture that lies `under` values is pale and gray: the pink and purple of a stain would change every color on it.
    """
    left, right, bottom, top = section.box
    if (picture or under) and section.image is not None:
        shown = gray(section.image) if under else section.image
        ax.imshow(shown, extent=(left, right, bottom, top), aspect="equal", zorder=0)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if scale_bar and section.microns_per_pixel is not None:
        _draw_scale_bar(ax, section)


def gray(picture: np.ndarray) -> np.ndarray:
    """A picture (h, w, 3), uint8, in pale shades of gray."""
    luminance = picture[..., :3] @ np.array([0.299, 0.587, 0.114])
    shade = np.round(255 - _PALE * (255 - luminance)).astype(np.uint8)
    return np.repeat(shade[..., None], 3, axis=2)


def _draw_scale_bar(ax: Axes, section: Section) -> None:
    """Bar of a round length, about a quarter of the panel, below the picture."""
    mpp = section.microns_per_pixel or 1.0
    left, right = section.box[:2]
    quarter = (right - left) * mpp / 4
    lengths = np.outer(10.0 ** np.arange(0, 6), [1, 2, 5]).ravel()
    length = float(lengths[np.argmin(np.abs(np.log(lengths / quarter)))])
    share = length / mpp / (right - left)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    ax.plot([0, share], [-0.03, -0.03], color=INK, lw=2, solid_capstyle="butt", transform=ax.transAxes, clip_on=False)
    ax.text(share / 2, -0.05, text, ha="center", va="top", fontsize=8, transform=ax.transAxes)


def draw_spots(
    ax: Axes,
    section: Section,
    *,
    values: np.ndarray | None = None,
    colors: Any = None,
    cmap: str | None = None,
    norm: Normalize | None = None,
    alpha: float | None = None,
    edge: str = GRAY,
) -> EllipseCollection:
    """Draw the spots of a section as circles, in one artist; NaN is light gray.

    A hairline around each keeps the pale middle of a colormap visible on white; dense sections go without.
    """
    import matplotlib as mpl
    from matplotlib.collections import EllipseCollection

    n = len(section.xy)
    width = np.full(n, section.diameter)
    spots = EllipseCollection(
        width, width, np.zeros(n), units="xy", offsets=section.xy, offset_transform=ax.transData,
        linewidths=0.3 * min(1.0, 200 / n) if n < _DENSE_FROM else 0,
        edgecolors=edge, alpha=alpha, rasterized=n >= _RASTERIZE_FROM, zorder=2,
    )  # fmt: skip
    if values is not None:
        spots.set_cmap(mpl.colormaps[cmap or VALUE_CMAP].with_extremes(bad=LIGHT_GRAY))
        spots.set_norm(norm)
        spots.set_array(np.ma.masked_invalid(values))
    else:
        spots.set_facecolor(colors)
    ax.add_collection(spots, autolim=False)
    return spots


def legend_rows(n: int) -> int:
    """Rows of a legend with `n` entries, which has a column for every 16."""
    return -(-n // (1 + (n - 1) // 16)) if n else 1


def category_legend(
    ax: Axes | Figure, names: Iterable[str], colors: Iterable[str], title: str | None = None, place: str | None = None
) -> None:
    """Name the colors, right of the panel, or at a place of the figure."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="", marker="o", ms=6, mew=0, color=color, label=name)
        for name, color in zip(names, colors, strict=True)
    ]
    many = -(-len(handles) // legend_rows(len(handles)))
    where: dict[str, Any] = {"loc": place} if place else {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    legend = ax.legend(
        handles=handles, title=title, ncols=many, handletextpad=0.2, borderaxespad=0.3, alignment="left", **where
    )
    legend.get_title().set_fontsize(8)
