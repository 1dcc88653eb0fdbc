"""Super-resolved genes beside the spots that they were learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_unique
from stpredict.pl._finished import finished
from stpredict.pl._sections import usual_range
from stpredict.pl._style import (
    VALUE_CMAP,
    Section,
    draw_spots,
    find_section,
    frame_section,
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
    sample: str | None = None,
    std: bool = False,
    whole: bool = False,
    spot_size: float | None = None,
    cmap: str = VALUE_CMAP,
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
        Section; the first one with a map when `None`.
    std
        Whether to add a panel with the standard deviation over the members.
    whole
        Whether to show the map wherever there is one.
    spot_size
        Diameter of the spots in full-resolution pixels; as measured when `None`.
    cmap
        Colormap.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Axes (n_genes, n_panels): the picture where there is one, spots, map, and the standard deviation.

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
    name = next(iter(maps)) if sample is None else sample
    if name not in maps:
        raise KeyError(f"expected the map of section {name!r}; found those of {', '.join(maps)}")
    dense = maps[name]
    section = find_section(data, sample=name, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    shown = _Window(dense, section, whole=whole)
    values = _measured(adata, dense, names, section.rows)
    panels = [*(["picture"] if section.image is not None else []), "spots", "map", *(["deviation"] if std else [])]
    aspect = (section.box[2] - section.box[3]) / (section.box[1] - section.box[0])
    label = "counts per place" if dense.record.get("counts") else value_label(adata, None)
    with style():
        size = ((_PANEL * len(panels)) + 1.6, (_PANEL * aspect + 0.35) * len(names) + 0.3)
        figure, axes = plt.subplots(len(names), len(panels), figsize=size, squeeze=False, layout="constrained")
        leave_room(figure)
        for row, gene in enumerate(names):
            _draw_row(
                figure, axes[row], panels, section, shown, gene, values[:, row], cmap, label, last=row == len(names) - 1
            )
            axes[row, 0].set_ylabel(gene, fontstyle="italic", fontsize=10)
        for ax, panel in zip(axes[0], panels, strict=True):
            ax.set_title(_TITLES[panel].format(name=name, microns=f"{dense.microns:g}"))
    return axes


_TITLES = {"picture": "{name}", "spots": "spots", "map": "{microns} µm", "deviation": "deviation of members"}


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
    figure: Any, axes: np.ndarray, panels: Sequence[str], section: Section, shown: _Window, gene: str, spots: np.ndarray,
    cmap: str, label: str, *, last: bool,
) -> None:  # fmt: skip
    from matplotlib.colors import Normalize

    picture = shown.picture(gene)
    norm = Normalize(*usual_range(np.concatenate([spots, picture.compressed()])))
    for ax, panel in zip(axes, panels, strict=True):
        frame_section(ax, section, picture=float(panel == "picture"), scale_bar=last and ax is axes[0])
        artist: Any = None
        if panel == "spots":
            draw_spots(ax, section, values=spots, cmap=cmap, norm=norm)
        elif panel != "picture":
            deviation = panel == "deviation"
            artist = ax.imshow(
                shown.picture(gene, std=True) if deviation else picture, extent=shown.extent, interpolation="nearest",
                cmap="magma" if deviation else cmap, norm=None if deviation else norm, zorder=1,
            )  # fmt: skip
            frame_section(ax, section)  # limits, which a picture sets anew
        if artist is not None:
            bar = figure.colorbar(artist, ax=ax, shrink=0.8, aspect=18, pad=0.02)
            bar.set_label(label, fontsize=8)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=7, length=2)
