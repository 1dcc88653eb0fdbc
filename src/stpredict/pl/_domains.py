"""Domains on the tissue, beside annotated regions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
from stpredict.slots._checks import check_obs
from stpredict.slots._container import find_table, get_table
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

_PANEL = 3.0  # inches
_PICTURE = 0.55  # opacity of the picture, so that the colors of the spots stand out
_MISSING = ""


def domains(
    data: Container,
    *,
    key: str = Key.DOMAIN,
    sample: str | None = None,
    label_key: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    spot_size: float | None = None,
    alpha: float = 0.9,
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
        Diameter of a spot in full-resolution pixels. By default that of the section's scale factors, or else 0.8 of
        the distance between spots; sections of 2000 spots and more are drawn without gaps.
    alpha
        Opacity of the spots over the picture.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Axes; with `label_key` an array of two. Colors are the same in every section. Spots without a domain, and those
    without a label or labeled `"undetermined"`, are gray.

    With `label_key` the title gives the adjusted Rand index :cite:p:`hubert1985` between domains and labels over the
    labeled spots of this section. Each domain has the color of the label that it shares most spots with over all
    sections, one to one (within each section, where domains were found section by section).

    Raises
    ------
    KeyError
        When the domains, the labels or the section are missing.
    ValueError
        When `ax` does not have one axes per panel.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 4, n_spots=30)
    >>> adata.obs["domain"] = (adata.obs["tumor"] > 0.5).map({True: "0", False: "1"})
    >>> left, right = stp.pl.domains(adata, label_key="label")
    >>> right.get_title()
    'label'
    """
    table_key = find_table(data, table_key, key)
    adata = get_table(data, table_key)
    check_obs(adata, key, "run stp.tl.domains(adata) first, or name the column with `key=`")
    if label_key is not None:
        check_obs(adata, label_key, "name the annotated regions with `label_key=`")
    section = find_section(data, sample=sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    panels = [key] if label_key is None else [key, label_key]
    given_axes = _given_axes(ax, len(panels))
    title = _title(adata, key, label_key, section)
    colors = _colors(adata, key, label_key, sample_key)

    with style():
        if given_axes is None:
            given_axes = _new_axes(section, len(panels))
        for panel, column in zip(given_axes, panels, strict=True):
            _draw(panel, adata, column, colors[column], section, alpha)
            panel.set_title(column)
        frame_section(given_axes[0], section, scale_bar=True)
        given_axes[0].set_title(title)
    return given_axes[0] if label_key is None else np.array(given_axes, dtype=object)


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


def _colors(adata: AnnData, key: str, label_key: str | None, sample_key: str) -> dict[str, dict[str, str]]:
    """Color of every category of each panel; domains take those of the labels that they match."""
    domain_of, domains_ = _categories(adata.obs[key])
    if label_key is None:
        return {key: dict(zip(domains_, category_colors(len(domains_)), strict=True))}
    label_of, labels = _categories(adata.obs[label_key])
    palette = category_colors(len(domains_) + len(labels))
    shared = np.zeros((len(domains_), len(labels)))
    has_both = (domain_of != _MISSING) & (label_of != _MISSING)
    at = {name: i for i, name in enumerate(domains_)}, {name: i for i, name in enumerate(labels)}
    np.add.at(shared, ([at[0][name] for name in domain_of[has_both]], [at[1][name] for name in label_of[has_both]]), 1)
    matched = _matched(shared, _home(adata, domain_of, domains_, sample_key))
    spare_colors = iter(palette[len(labels) :])
    return {
        label_key: dict(zip(labels, palette, strict=False)),
        key: {name: palette[matched[i]] if i in matched else next(spare_colors) for i, name in enumerate(domains_)},
    }


def _home(adata: AnnData, domain_of: np.ndarray, domains_: list[str], sample_key: str) -> np.ndarray:
    """Section of each domain where every domain lies in one section; otherwise the same for all."""
    import pandas as pd

    if sample_key not in adata.obs:
        return np.zeros(len(domains_), dtype=np.int64)
    code = pd.factorize(adata.obs[sample_key].astype(str))[0]
    pairs = pd.DataFrame({"domain": domain_of, "section": code})[domain_of != _MISSING].drop_duplicates()
    if pairs["domain"].duplicated().any():
        return np.zeros(len(domains_), dtype=np.int64)
    return pairs.set_index("domain")["section"][domains_].to_numpy()


def _matched(shared: np.ndarray, home: np.ndarray) -> dict[int, int]:
    """Label of each domain: one to one, by most shared spots, among the domains that have the same home."""
    from scipy.optimize import linear_sum_assignment

    matched: dict[int, int] = {}
    for place in np.unique(home):
        rows = np.flatnonzero(home == place)
        first, second = linear_sum_assignment(-shared[rows])
        matched |= dict(zip(rows[first].tolist(), second.tolist(), strict=True))
    return matched


def _draw(ax: Axes, adata: AnnData, column: str, palette: dict[str, str], section: Section, alpha: float) -> None:
    text, categories = _categories(adata.obs[column])
    colors = palette | {_MISSING: LIGHT_GRAY}
    section_text = text[section.rows]
    frame_section(ax, section, picture=_PICTURE)
    draw_spots(ax, section, colors=[colors[name] for name in section_text], alpha=alpha, edge="white")
    present = [name for name in categories if name in set(section_text)]
    names = [*present, "not assigned"] if _MISSING in section_text else present
    category_legend(ax, names, [colors[name] for name in present] + [LIGHT_GRAY] * (len(names) - len(present)))


def _categories(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Text of each observation, `""` where there is none, and the categories in their order."""
    import pandas as pd

    text = column.astype(str).str.strip()
    missing = column.isna() | (text == "") | (text.str.lower() == "undetermined")
    text = text.where(~missing, _MISSING)
    if isinstance(column.dtype, pd.CategoricalDtype):
        names = [str(name).strip() for name in column.cat.categories]
    else:
        names = sorted(set(text), key=_natural)
    return text.to_numpy(dtype=object), [name for name in dict.fromkeys(names) if name in set(text) - {_MISSING}]


def _natural(name: str) -> list[Any]:
    """Sort key that puts "2" before "10"."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _title(adata: AnnData, key: str, label_key: str | None, section: Section) -> str:
    if label_key is None:
        return section.name
    from sklearn.metrics import adjusted_rand_score

    domain_of, label_of = (_categories(adata.obs[name])[0][section.rows] for name in (key, label_key))
    has_both = (domain_of != _MISSING) & (label_of != _MISSING)
    if not has_both.any():
        return f"{section.name}, {key}: no labels"
    return f"{section.name}, {key}: ARI = {adjusted_rand_score(label_of[has_both].astype(str), domain_of[has_both].astype(str)):.2f}"
