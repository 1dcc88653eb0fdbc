"""Domains on the tissue, beside annotated regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._container import get_table
from stpredict._keys import Key
from stpredict._validate import check_obs
from stpredict.pl._style import (
    LIGHT_GRAY,
    Section,
    category_colors,
    category_legend,
    draw_spots,
    find_section,
    frame_section,
    one_panel,
    style,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

    from stpredict._container import Container

_PANEL = 3.0  # inches
_MISSING = ""


def domains(
    data: Container,
    *,
    key: str = Key.DOMAIN,
    sample: str | None = None,
    label_key: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    spot_size: float | None = None,
    alpha: float = 0.85,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> Axes | np.ndarray:
    """Color the spots of a section by their domain, over the picture and beside annotated regions.

    Parameters
    ----------
    data
        AnnData or SpatialData with domains.
    key
        Column of `obs` with the domains.
    sample
        Section to show; the first one by default.
    label_key
        Column of `obs` with annotated regions, for a second panel.
    ax
        Axes to draw into, two of them with `label_key`; those of a new figure by default.
    spot_size
        Diameter of a spot in full-resolution pixels; by default that of the section's scale factors.
    alpha
        Opacity of the spots over the picture.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The axes; with `label_key` an array of two, and in the title the adjusted Rand index :cite:p:`hubert1985` between
    domains and labels over the labeled spots of this section. A category has the same color in every section. Spots
    without a domain, and those without a label or labeled `"undetermined"`, are gray.

    Raises
    ------
    KeyError
        When the domains, the labels or the section are missing.
    ValueError
        When `ax` does not have one axes per panel.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 4, n_spots=30)
    >>> adata.obs["domain"] = (adata.obs["tumor"] > 0.5).map({True: "0", False: "1"})
    >>> left, right = stp.pl.domains(adata, label_key="label")
    >>> right.get_title()
    'label'
    """
    adata = get_table(data, table_key)
    check_obs(adata, key, "run stp.tl.domains(adata) first, or name the column with `key=`")
    if label_key is not None:
        check_obs(adata, label_key, "name the annotated regions with `label_key=`")
    section = find_section(data, sample=sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    panels = [key] if label_key is None else [key, label_key]
    given = _given_axes(ax, len(panels))
    title = _title(adata, key, label_key, section)

    with style():
        if given is None:
            given = _new_axes(section, len(panels))
        for panel, column in zip(given, panels, strict=True):
            _draw(panel, adata, column, section, alpha)
            panel.set_title(column)
        frame_section(given[0], section, scale_bar=True)
        given[0].set_title(title)
    return given[0] if label_key is None else np.array(given, dtype=object)


def _given_axes(ax: Any, n: int) -> list[Axes] | None:
    if ax is None:
        return None
    axes = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != n:
        raise ValueError(f"expected {n} axes in `ax`, one per panel; found {len(axes)}")
    return [one_panel(panel, 0, 0) for panel in axes]


def _new_axes(section: Section, n: int) -> list[Axes]:
    import matplotlib.pyplot as plt

    left, right, bottom, top = section.box
    height = np.clip(_PANEL * (bottom - top) / (right - left), 1.5, 6) + 0.6
    axes = plt.subplots(1, n, figsize=((_PANEL + 1.2) * n, height), squeeze=False, layout="constrained")[1]
    return list(axes[0])


def _draw(ax: Axes, adata: AnnData, column: str, section: Section, alpha: float) -> None:
    text, categories = _categories(adata.obs[column])
    colors = dict(zip(categories, category_colors(categories), strict=True)) | {_MISSING: LIGHT_GRAY}
    here = text[section.rows]
    frame_section(ax, section, picture=True)
    draw_spots(ax, section, colors=[colors[name] for name in here], alpha=alpha)
    shown = [name for name in categories if name in set(here)]
    names = [*shown, "not assigned"] if _MISSING in here else shown
    category_legend(ax, names, [colors[name] for name in shown] + [LIGHT_GRAY] * (len(names) - len(shown)))


def _categories(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Text of each observation, `""` where there is none, and the categories in their order."""
    import pandas as pd

    text = column.astype(str).str.strip()
    missing = column.isna() | (text == "") | (text.str.lower() == "undetermined")
    text = text.where(~missing, _MISSING)
    if isinstance(column.dtype, pd.CategoricalDtype):
        wanted = [str(name).strip() for name in column.cat.categories]
    else:
        wanted = sorted(set(text))
    return text.to_numpy(dtype=object), [name for name in dict.fromkeys(wanted) if name in set(text) - {_MISSING}]


def _title(adata: AnnData, key: str, label_key: str | None, section: Section) -> str:
    if label_key is None:
        return section.name
    from sklearn.metrics import adjusted_rand_score

    found, known = (_categories(adata.obs[name])[0][section.rows] for name in (key, label_key))
    both = (found != _MISSING) & (known != _MISSING)
    if not both.any():
        return f"{section.name}, {key}: no labels"
    return f"{section.name}, {key}: ARI = {adjusted_rand_score(known[both].astype(str), found[both].astype(str)):.2f}"
