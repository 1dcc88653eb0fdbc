"""Sections and slides as one page to look around in: any gene or column over the picture, in two linked views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._atomic import room_for
from stpredict.pl._explore_page import page
from stpredict.pl._explore_values import (
    Held,
    column_entry,
    first_gene,
    gene_values,
    prediction_slot,
    section_entry,
    shown_columns,
    to_codes,
)
from stpredict.pl._sections import ALL, find_sections
from stpredict.pl._style import ERROR_CMAP, value_label
from stpredict.slots._container import find_table, get_table
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from stpredict.slots._container import Container

_COLORMAPS = ("viridis", "magma", "cividis", "gray")
_FRAME = 800  # pixels of height in a notebook, where two views lie beside each other
#: Where they have no room for that, the frame grows; where a notebook runs no script, it scrolls.
_GROW = (
    "const f=this,grow=()=>{const all=f.contentDocument.querySelector('.bk-Column');"
    f"if(all)new ResizeObserver(()=>{{f.style.height=Math.max({_FRAME},all.offsetHeight+24)+'px'}}).observe(all);"
    "else setTimeout(grow,100)};grow()"
)


@dataclass
class Explorer:
    """A page to look around in; a notebook shows it.

    Attributes
    ----------
    html
        The page, which needs no network.
    sections, genes
        What it shows.
    """

    html: str = field(repr=False)
    sections: list[str]
    genes: list[str]

    def __repr__(self) -> str:
        size = len(self.html.encode()) / 1e6
        return f"Explorer({len(self.sections)} sections, {len(self.genes)} genes, {size:.1f} MB)"

    def _repr_html_(self) -> str:
        source = self.html.replace("&", "&amp;").replace("'", "&#39;")
        size = f"width='100%' height='{_FRAME}' style='border:0'"
        return f"<iframe srcdoc='{source}' {size} onload=\"{_GROW}\"></iframe>"

    def save(self, path: str | Path) -> Path:
        """Write the page to a file; `OSError` where it cannot be written."""
        path = Path(path)
        with room_for(str(path), "name another file"):
            path.write_text(self.html, encoding="utf-8")
        return path


def explore(
    data: Container,
    path: str | Path | None = None,
    *,
    genes: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    key: str | None = None,
    layer: str | None = None,
    sample: str | Sequence[str] | None = ALL,
    spot_size: float | None = None,
    title: str = "stpredict",
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> Explorer:
    """Make one HTML page to look around in: genes and columns over the picture, in two linked views.

    Either view shows, of any gene, what was measured, predicted, their difference (error) or the standard deviation of the
    prediction (uncertainty), or a column of `obs`. Genes are searched by any part of their name. Section, opacity, colors
    and their ends are chosen on the page, which begins with the gene that was measured to vary most in the first section; the pointer over a spot reads its values. Panning and zooming move both views.
    The page needs neither network nor server, and is shown by a notebook.

    Values are kept in 65,535 steps between the lowest and the highest value of each gene and kind, so that each is off by
    at most 1/131,000 of that range, and are shown with four digits.

    Parameters
    ----------
    data
        AnnData or SpatialData with positions; with or without a prediction and pictures.
    path
        File to write the page to as well.
    genes
        Genes to hold; those of the prediction, or all where there is none, when `None`: of these as many as a page holds, those
        that vary most over all observations, which a warning says. A page holds up to 48 MB of values before compression: 2
        bytes for every observation, gene, and kind of value.
    columns
        Columns of `obs` to hold; when `None` all numbers, and all categories of which there are 2 to 50.
    key
        Slot of the prediction in `obsm`; when `None`, `"predicted"`, or the first prediction that there is, which a warning says
        where there are others.
    layer
        Layer with the measured values, as in :func:`stpredict.get.predicted`.
    sample
        Section to show, several, or `"all"`.
    spot_size
        Diameter of a spot in full-resolution pixels; that of the section when `None`.
    title
        Title of the page.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData; of a slide, the table with the prediction is found.

    Returns
    -------
    The page, which a notebook shows: an object with its `html`, its `sections` and `genes`, and `save(path)`. Pictures have at most 1,200 pixels a side, and 8 million pixels together.

    Raises
    ------
    KeyError
        When a gene, a column or a section is missing.
    ValueError
        When the genes that were named are more than a page holds, or a section has no observations.
    TypeError
        When `data` is neither AnnData nor SpatialData.
    ImportError
        When bokeh is not installed (extra `viz`).
    OSError
        When the file cannot be written.

    Warns
    -----
    UserWarning
        When one of several predictions, or some of the genes, were taken.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(2, 1, 4, n_spots=20)
    >>> stp.pl.explore(adata, "sections.html")  # doctest: +ELLIPSIS
    Explorer(2 sections, 4 genes, ... MB)
    """
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    table_key = find_table(data, table_key, key or Key.PREDICTED)
    adata = get_table(data, table_key)
    key = prediction_slot(adata) if key is None else key
    sections = find_sections(data, sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    names, values, units = gene_values(adata, key, genes, layer, sample_key)
    shown = shown_columns(adata, columns, sample_key)

    rows = np.concatenate([section.rows for section in sections])
    known = all(section.microns_per_pixel is not None for section in sections)
    factors = [section.microns_per_pixel or 1.0 if known else 1.0 for section in sections]
    starts = np.cumsum([0, *(len(section.rows) for section in sections)])
    xy = np.concatenate([section.xy * factor for section, factor in zip(sections, factors, strict=True)])
    n_pictures = sum(section.image is not None for section in sections)
    coded = {kind: to_codes(part[rows]) for kind, part in values.items()}
    entries = [column_entry(adata, name) for name in shown]
    kinds = list(values)
    if {"measured", "predicted"} <= set(kinds):
        kinds.insert(2, "error")
    palettes = {name: _palette(mpl.colormaps[name], to_hex) for name in _COLORMAPS}
    about = {
        "genes": names, "first": names[first_gene(values, sections[0].rows)], "kinds": kinds, "unit": value_label(adata, layer, key), "units": units, "n_obs": len(rows),
        "scales": {kind: {"low": low.tolist(), "step": step.tolist()} for kind, (_, low, step) in coded.items()},
        "columns": [entry for entry, _ in entries], "length": "µm" if known else "px",
        "colormaps": list(_COLORMAPS), "palettes": palettes | {"error": _palette(mpl.colormaps[ERROR_CMAP], to_hex)},
        "sections": [
            section_entry(adata, section, int(start), factor, key, n_pictures)
            for section, start, factor in zip(sections, starts, factors, strict=False)
        ],
    }  # fmt: skip
    held = Held(about, {kind: codes.T.ravel() for kind, (codes, _, _) in coded.items()})
    held.columns = {"x": xy[:, 0].astype(np.float32), "y": xy[:, 1].astype(np.float32)}
    held.columns["id"] = adata.obs_names[rows].tolist()
    held.columns |= {f"column:{number}": part[rows] for number, (_, part) in enumerate(entries)}
    found = Explorer(page(held, title, shown), [section.name for section in sections], names)
    if path is not None:
        found.save(path)
    return found


def _palette(colormap: object, to_hex: object) -> list[str]:
    return [to_hex(colormap(value)) for value in range(256)]  # type: ignore[operator]
