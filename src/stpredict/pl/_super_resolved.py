"""Super-resolved genes beside the spots that they were learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_unique
from stpredict.pl._color_bar import color_bar
from stpredict.pl._finished import finished
from stpredict.pl._sections import ALL, FLAT, color_limits, find_sections, is_flat, range_text, usual_range
from stpredict.pl._style import (
    VALUE_CMAP,
    Section,
    draw_spots,
    frame_section,
    given_axes,
    leave_room,
    style,
    value_label,
)
from stpredict.slots._checks import check_genes
from stpredict.slots._container import get_table
from stpredict.slots._dense_map import DenseMap
from stpredict.slots._expression import measured_matrix, to_dense
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

_PANEL = 2.6  # inches
_PITCHES = 1.0  # distance from the nearest spot, in pitches, beyond which a map is not shown
_MAX_SIDE = 1500  # places of a panel along its longer side


@finished
def super_resolved(
    data: Container,
    maps: Mapping[str, DenseMap],
    genes: str | Sequence[str],
    *,
    sample: str | Sequence[str] | None = None,
    std: bool = False,
    whole: bool = False,
    ax: Axes | Sequence[Axes] | None = None,
    spot_size: float | None = None,
    cmap: str = VALUE_CMAP,
    vmin: float | None = None,
    vmax: float | None = None,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> np.ndarray:
    """Draw genes as they were measured in spots beside their maps, with the picture.

    Spots and map of a gene have one scale, which spans the 1st to the 99th percentile of both. Places that are further from
    every spot than spots are from each other are left white: nothing near them was measured.

    Parameters
    ----------
    data
        AnnData or SpatialData of the spots.
    maps
        Maps of :func:`stpredict.tl.super_resolve` by section.
    genes
        Genes, a row each.
    sample
        Section, several, or `"all"` that have a map; the first of these when `None`.
    std
        Whether to add a panel with the standard deviation over the members.
    whole
        Whether to show the map wherever there is one.
    ax
        Axes to draw into, one per panel in the order of what is returned; those of a new figure by default.
    spot_size
        Diameter of the spots in full-resolution pixels; as measured when `None`.
    cmap
        Colormap.
    vmin, vmax
        Ends of the color scale of spots and map.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Axes (n_genes, n_panels): the picture where there is one, spots, map, and the standard deviation; with several sections
    (n_sections, n_genes, n_panels). A map that is practically constant says so.

    Raises
    ------
    KeyError
        When a section, a gene or standard deviations are missing.
    ValueError
        When there is no map, or no spot.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 5, n_spots=60)
    >>> stp.pp.normalize(adata)
    >>> maps = stp.tl.super_resolve(adata, microns=16, n_blocks=0)
    >>> stp.pl.super_resolved(adata, maps, adata.var_names[0]).shape
    (1, 3)
    """
    import matplotlib.pyplot as plt

    adata = get_table(data, table_key)
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    check_unique(names, "genes")
    check_genes(adata, names)
    if not maps:
        raise ValueError("expected at least one map; found none; run stp.tl.super_resolve")
    chosen = [next(iter(maps))] if sample is None else list(maps) if sample == ALL and ALL not in maps else sample
    chosen = [chosen] if isinstance(chosen, str) else [str(name) for name in chosen]
    one = sample is None or (isinstance(sample, str) and chosen == [sample])
    if unknown := [name for name in chosen if name not in maps]:
        raise KeyError(f"expected the map of section {unknown[0]!r}; found those of {', '.join(maps)}")
    where: dict[str, Any] = {"spot_size": spot_size, "sample_key": sample_key, "table_key": table_key, "to_scale": True}
    sections = find_sections(data, chosen, **where)
    pictures = any(section.image is not None for section in sections)
    panels = [*(["picture"] if pictures else []), "spots", "map", *(["deviation"] if std else [])]
    shown = [_Window(maps[section.name], section, whole=whole) for section in sections]
    given = given_axes(ax, len(sections) * len(names) * len(panels))
    with style():
        if given is None:
            aspects = [(section.box[2] - section.box[3]) / (section.box[1] - section.box[0]) for section in sections]
            heights = [_PANEL * aspect + 0.35 for aspect in aspects for _ in names]
            figure, grid = plt.subplots(
                len(heights), len(panels), figsize=(_PANEL * len(panels) + 1.6, sum(heights) + 0.3), squeeze=False,
                layout="constrained", height_ratios=heights,
            )  # fmt: skip
            leave_room(figure)
            given = list(grid.ravel())
        axes = np.array(given, dtype=object).reshape(len(sections), len(names), len(panels))
        for section, window, rows in zip(sections, shown, axes, strict=True):
            values = _measured(adata, window.dense, names, section.rows)
            counts = bool(window.dense.record.get("counts"))
            look = _Look(cmap, "counts per place" if counts else value_label(adata, None), (vmin, vmax))
            for row, gene in enumerate(names):
                _draw_row(rows[row], panels, section, window, gene, values[:, row], look, last=row == len(names) - 1)
                rows[row, 0].set_ylabel(gene, fontstyle="italic", fontsize=10)
            for pane, panel in zip(rows[0], panels, strict=True):
                title = _TITLES[panel].format(microns=f"{window.dense.microns:g}")
                start = f"{section.name}: " if pane is rows[0, 0] else ""
                pane.set_title("\n".join(filter(None, (start + title, pane.get_title()))))
    return axes[0] if one else axes


_TITLES = {
    "picture": "H&E", "spots": "measured in spots", "map": "map, places of {microns} µm",
    "deviation": "deviation of members",
}  # fmt: skip


@dataclass(frozen=True)
class _Look:
    """How the panels of a section are drawn."""

    cmap: str
    label: str  # of the color bars
    ends: tuple[float | None, float | None]


class _Window:
    """The places of a map in the panel of a section."""

    def __init__(self, dense: DenseMap, section: Section, *, whole: bool) -> None:
        from scipy.spatial import KDTree

        left, right, bottom, top = section.box
        first = np.clip(dense.places(np.array([[left, top]]))[0], 0, None)
        last = np.minimum(dense.places(np.array([[right, bottom]]))[0] + 1, dense.shape[:2])
        if (last <= first).any():
            raise ValueError(f"expected the map of section {section.name!r} to cover its spots; found it beside them")
        self.dense, self.rows, self.columns = (
            dense,
            slice(*map(int, (first[0], last[0]))),
            slice(*map(int, (first[1], last[1]))),
        )
        self.step = max(1, int(max(last - first)) // _MAX_SIDE)
        side = dense.side_px
        x, y = (np.asarray(dense.origin) + [first[1] * side, first[0] * side]).tolist()
        self.extent = (x, x + (last[1] - first[1]) * side, y + (last[0] - first[0]) * side, y)
        self.hidden = np.zeros((1, 1), dtype=bool)
        if not whole and len(section.xy) > 1:
            tree = KDTree(section.xy)
            pitch = float(np.median(tree.query(section.xy, k=2)[0][:, 1]))
            row, column = (np.arange(part.start, part.stop, self.step) + 0.5 for part in (self.rows, self.columns))
            centers = np.stack(np.meshgrid(column, row), axis=-1) * side + np.asarray(dense.origin)
            self.hidden = tree.query(centers)[0] > _PITCHES * pitch

    def picture(self, gene: str, *, std: bool = False) -> Any:
        """Values of the panel, those that are hidden masked."""
        values = self.dense.layer(gene, std, (self.rows, self.columns))[:: self.step, :: self.step]
        return np.ma.masked_where(~np.isfinite(values) | np.broadcast_to(self.hidden, values.shape), values)


def _measured(adata: AnnData, dense: DenseMap, genes: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Values (n, n_genes) of the spots in the unit of the map."""
    counts = bool(dense.record.get("counts"))
    values = to_dense(measured_matrix(adata, genes, rows, Key.COUNTS if counts else None)).astype(np.float64)
    return values / float(dense.record["n_places"]) if counts else values


def _draw_row(
    axes: np.ndarray, panels: Sequence[str], section: Section, shown: _Window, gene: str, spots: np.ndarray, look: _Look,
    *, last: bool,
) -> None:  # fmt: skip
    from matplotlib.colors import Normalize

    picture = shown.picture(gene)
    both = np.concatenate([spots, picture.compressed()])
    norm = Normalize(*color_limits(both, *look.ends))
    for ax, panel in zip(axes, panels, strict=True):
        frame_section(ax, section, picture=panel == "picture", scale_bar=last and ax is axes[0])
        if panel == "spots":
            draw_spots(ax, section, values=spots, cmap=look.cmap, norm=norm)
        elif panel != "picture":
            deviation = panel == "deviation"
            artist = ax.imshow(
                shown.picture(gene, std=True) if deviation else picture, extent=shown.extent, interpolation="nearest",
                cmap="magma" if deviation else look.cmap, norm=None if deviation else norm, zorder=1,
            )  # fmt: skip
            frame_section(ax, section)  # limits, which a picture sets anew
            color_bar(artist, ax, look.label, values=None if deviation else both)
        ends = usual_range(picture.compressed())
        if panel == "map" and is_flat(*ends, noise=float(np.nanstd(spots))):
            ax.set_title(f"{FLAT}: {range_text(*ends)}")
