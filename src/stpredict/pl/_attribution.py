"""Attribution of a network's prediction of a gene, over the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.pl._finished import finished
from stpredict.pl._style import ERROR_CMAP, VALUE_CMAP, draw_spots, find_section, frame_section, one_panel, style
from stpredict.slots._checks import check_obs
from stpredict.slots._container import find_table, get_table
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

_PANEL = 3.0  # inches
_EXTREME = 0.99  # quantile that ends a signed scale, so that a few spots do not bleach the rest


@finished
def attribution(
    data: Container,
    gene: str,
    *,
    key: str | None = None,
    sample: str | None = None,
    ax: Axes | None = None,
    cmap: str | None = None,
    spot_size: float | None = None,
    alpha: float = 0.75,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> Axes:
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
        Section to show; the first one that was explained by default.
    ax
        Axes to draw into; those of a new figure by default.
    cmap
        Colormap; when `None`, a sequential one for Grad-CAM, and for integrated gradients a diverging one around 0.
    spot_size
        Diameter of a spot in full-resolution pixels; that of the section by default.
    alpha
        Opacity of the spots over the picture.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The axes, in full-resolution pixels, y downward. The title names section, gene and method; that of integrated
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
    from matplotlib.colors import CenteredNorm, Normalize

    key = key or Key.attribution(gene)
    table_key = find_table(data, table_key, key)
    adata = get_table(data, table_key)
    check_obs(adata, key, "run stp.tl.attribution(adata, model, gene) first, or name the column with `key=`")
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    all_values = adata.obs[key].to_numpy(dtype=float)
    if sample is None and np.isfinite(all_values).any():
        sample = str(adata.obs[sample_key].iloc[int(np.flatnonzero(np.isfinite(all_values))[0])])
    section = find_section(data, sample=sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    values = all_values[section.rows]
    if not np.isfinite(values).any():
        raise ValueError(
            f"expected an attribution in section {section.name!r}; found none; run "
            f"stp.tl.attribution(adata, model, {gene!r}, sample={section.name!r})"
        )
    record = read_record(adata, key) or {}
    signed = record.get("method") == "integrated_gradients" or np.nanmin(values) < 0
    if signed:
        end = float(np.nanquantile(np.abs(values), _EXTREME)) or float(np.nanmax(np.abs(values))) or 1.0
        norm: Normalize = CenteredNorm(0, end)
    else:
        norm = Normalize(0, 1)

    with style():
        left, right, bottom, top = section.box
        height = np.clip(_PANEL * (bottom - top) / (right - left), 1.5, 6) + 0.5
        ax = one_panel(ax, _PANEL + 0.9, height)
        frame_section(ax, section, picture=1.0, scale_bar=True)
        spots = draw_spots(
            ax, section, values=values, cmap=cmap or (ERROR_CMAP if signed else VALUE_CMAP), norm=norm, alpha=alpha
        )
        ax.set_title(_title(section.name, gene, record))
        bar = ax.figure.colorbar(spots, ax=ax, shrink=0.7, aspect=20, pad=0.02, extend="both" if signed else "neither")
        bar.set_label(f"contribution to mean {gene}" if signed else "Grad-CAM, scaled", fontsize=8)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7, length=2)
    return ax


def _title(section: str, gene: str, record: dict) -> str:
    method = record.get("method")
    if method == "gradcam":
        return f"{section}: {gene}, Grad-CAM at {record.get('level')}"
    if method != "integrated_gradients":
        return f"{section}: {gene}"
    error = record.get("completeness_error", {}).get(section, 0.0)
    return f"{section}: {gene}, integrated gradients" + (f"\n(incomplete by {error:.0%})" if error > 0.05 else "")
