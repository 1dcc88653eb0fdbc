"""Attribution of a network's prediction of a gene, over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from stpredict.pl._color_bar import color_bar
from stpredict.pl._finished import finished
from stpredict.pl._sections import (
    ALL,
    FLAT,
    find_sections,
    is_flat,
    picture_place,
    range_text,
    section_panels,
    usual_range,
)
from stpredict.pl._style import ERROR_CMAP, VALUE_CMAP, chosen_limits, draw_spots, frame_section, given_axes, style
from stpredict.slots._checks import check_obs
from stpredict.slots._container import find_table, get_table
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

_PANEL, _SMALL_PANEL = 3.0, 2.2  # inches, of one section and of several
_EXTREME = 0.99  # quantile that ends a signed scale, so that a few spots do not bleach the rest


@finished
def attribution(
    data: Container,
    gene: str,
    *,
    key: str | None = None,
    sample: str | Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    cmap: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    picture: Literal["under", "beside", "none"] | None = None,
    spot_size: float | None = None,
    alpha: float = 0.9,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> Axes | np.ndarray:
    """Color the spots of a section by their attribution, over the picture.

    The attribution is that of Grad-CAM :cite:p:`selvaraju2017` or integrated gradients :cite:p:`sundararajan2017`.

    Parameters
    ----------
    data
        AnnData or SpatialData with the result of :func:`stpredict.tl.attribution`.
    gene
        Gene that was explained.
    key
        Column of `obs` with the attribution; `"attribution_{gene}"` when `None`.
    sample
        Section to show, several, or `"all"` that were explained; the first of these by default.
    ax
        Axes to draw into, one per section; those of a new figure by default.
    cmap
        Colormap; when `None`, a sequential one for Grad-CAM, and for integrated gradients a diverging one around 0.
    vmin, vmax
        Ends of the color scale, which all sections share.
    picture
        Where the picture is: `"under"` the spots, pale and gray, `"beside"` them in a panel of its own at the left, or
        `"none"`. When `None`, beside sections of 1,000 spots and more, which would hide it, and under others.
    spot_size
        Diameter of a spot in full-resolution pixels. By default that of the section's scale factors, but at least 0.8 of
        the distance between spots; sections of 2000 spots and more are drawn without gaps.
    alpha
        Opacity of the spots over the picture.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The axes, or an array of them for several sections, in full-resolution pixels, y downward. The title names section, gene and method; that of integrated
    gradients, whose sum missed the difference of outputs by more than 5 %, says so.

    Raises
    ------
    KeyError
        When the attribution or the section is missing.
    ValueError
        When the section was not explained.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 4, n_spots=30)
    >>> adata.obs["attribution_GENE0"] = adata.obs["tumor"]
    >>> ax = stp.pl.attribution(adata, "GENE0")
    """
    from matplotlib.colors import Normalize

    key = key or Key.attribution(gene)
    table_key = find_table(data, table_key, key)
    adata = get_table(data, table_key)
    check_obs(adata, key, "run stp.tl.attribution(adata, model, gene) first, or name the column with `key=`")
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    all_values = adata.obs[key].to_numpy(dtype=float)
    explained = list(dict.fromkeys(adata.obs[sample_key].astype(str)[np.isfinite(all_values)]))
    one = sample is None or (isinstance(sample, str) and sample != ALL)
    if explained and (sample is None or (sample == ALL and ALL not in explained)):
        sample = explained[0] if sample is None else explained
    sections = find_sections(data, sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    values = [all_values[section.rows] for section in sections]
    for section, here in zip(sections, values, strict=True):
        if not np.isfinite(here).any():
            raise ValueError(
                f"expected an attribution in section {section.name!r}; found none; run "
                f"stp.tl.attribution(adata, model, {gene!r}, sample={section.name!r})"
            )
    picture = picture_place(sections, picture, own_axes=ax is None)
    record = read_record(adata, key) or {}
    known = np.concatenate([here[np.isfinite(here)] for here in values])
    signed = record.get("method") == "integrated_gradients" or known.min() < 0
    end = float(np.quantile(np.abs(known), _EXTREME)) or float(np.abs(known).max()) or 1.0
    norm = Normalize(*chosen_limits((-end, end) if signed else (0.0, 1.0), vmin, vmax))
    label = f"contribution to the mean of {gene}" if signed else "Grad-CAM, scaled to 0–1"
    given = given_axes(ax, len(sections))

    with style():
        if given is None:
            width = _PANEL if one else _SMALL_PANEL
            given = section_panels(sections, picture=picture == "beside", width=width, room=0.9)
        axes = np.array(given, dtype=object)
        for pane, section, here in zip(axes, sections, values, strict=True):
            frame_section(pane, section, under=picture == "under", scale_bar=picture != "beside")
            drawn = draw_spots(
                pane, section, values=here, cmap=cmap or (ERROR_CMAP if signed else VALUE_CMAP), norm=norm, alpha=alpha
            )
            low, high = usual_range(here)
            flat = f"\n{FLAT}: {range_text(low, high)}" if is_flat(low, high) else ""
            pane.set_title(_title(section.name, gene, record) + flat)
        color_bar(drawn, axes.tolist(), label, shrink=0.7, values=known)
    return axes[0] if one else axes


def _title(section: str, gene: str, record: dict) -> str:
    method = record.get("method")
    if method == "gradcam":
        return f"{section}: {gene}, Grad-CAM at {record.get('level')}"
    if method != "integrated_gradients":
        return f"{section}: {gene}"
    error = record.get("completeness_error", {}).get(section, 0.0)
    return f"{section}: {gene}, integrated gradients" + (f"\n(incomplete by {error:.0%})" if error > 0.05 else "")
