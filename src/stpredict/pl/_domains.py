"""Domains on the tissue, beside annotated regions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._palette import category_colors
from stpredict.pl._finished import finished
from stpredict.pl._sections import find_sections, picture_place, section_panels
from stpredict.pl._style import (
    LIGHT_GRAY,
    Section,
    category_legend,
    draw_spots,
    frame_section,
    given_axes,
    legend_rows,
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

_PANEL, _SMALL_PANEL = 3.0, 2.2  # inches, of one section and of several
_ENTRY = 0.17  # inches of a line of a legend
_MISSING = ""
_CLUSTER = re.compile(r"(.*:)?\d+")


@finished
def domains(
    data: Container,
    *,
    key: str = Key.DOMAIN,
    sample: str | Sequence[str] | None = None,
    label_key: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    picture: Literal["under", "beside", "none"] | None = None,
    spot_size: float | None = None,
    alpha: float | None = None,
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
        Section to show, several, or `"all"`; the first one by default, with a note where there are others.
    label_key
        Column of `obs` with annotated regions, for a second panel.
    ax
        Axes to draw into, one per section, or two with `label_key`; those of a new figure by default.
    picture
        Where the picture is: `"under"` the spots, pale and gray, `"beside"` them in a panel of its own at the left, or
        `"none"`. When `None`, beside sections of 1,000 spots and more, which would hide it, and under others.
    spot_size
        Diameter of a spot in full-resolution pixels. By default that of the section's scale factors, but at least 0.8 of
        the distance between spots; sections of 2000 spots and more are drawn without gaps.
    alpha
        Opacity of the spots; when `None`, 0.9 over the picture and 1 elsewhere.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Axes; with `label_key` an array of two. With several sections an array (n_sections,) or (n_sections, 2), and one
    legend. Colors are the same in every section. Spots without a domain, and those
    without a label or labeled `"undetermined"`, are gray. A picture beside them is in the figure and not among the axes.

    Colors are those of `uns["{key}_colors"]`, which other tools of scverse use as well, where
    :func:`stpredict.tl.domains` or one of them has written it.

    With `label_key` the title gives the adjusted Rand index :cite:p:`hubert1985` between domains and labels over the
    labeled spots of this section. A domain and the label that it shares most spots with over all sections have
    the same color, one to one (within each section, where domains were found section by section). Where both have names in
    common that are no numbers, a name has the same color in both.

    Raises
    ------
    KeyError
        When the domains, the labels or the section are missing.
    ValueError
        When `ax` does not have one axes per panel.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When the object has several sections and `sample` names none.

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
    sections = find_sections(data, sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    one = len(sections) == 1 and (sample is None or isinstance(sample, str))
    columns = [key] if label_key is None else [key, label_key]
    given = given_axes(ax, len(columns) * len(sections))
    picture = picture_place(sections, picture, own_axes=ax is None)
    titles = [_title(adata, key, label_key, section) for section in sections]
    colors = _colors(adata, key, label_key, sample_key)

    with style():
        figure = None
        if given is None:
            given = section_panels(
                sections, len(columns), picture=picture == "beside", width=_PANEL if one else _SMALL_PANEL,
                room=1.2 * len(columns),
            )  # fmt: skip
            figure = given[0].figure
            _heighten(figure, adata, sections, columns, stacked=not one)
        axes = np.array(given, dtype=object).reshape(len(sections), len(columns))
        for row, section, title in zip(axes, sections, titles, strict=True):
            for panel, column in zip(row, columns, strict=True):
                _draw(panel, adata, column, colors[column], section, alpha, picture, legend=one or figure is None)
                panel.set_title(column if one else f"{section.name}, {column}")
            frame_section(row[0], section, scale_bar=picture != "beside")
            row[0].set_title(title)
        if figure is not None and not one:
            _common_legends(figure, adata, sections, {column: colors[column] for column in columns})
    if one:
        return axes[0, 0] if label_key is None else axes[0]
    return axes[:, 0] if label_key is None else axes


def _heighten(figure: Any, adata: AnnData, sections: Sequence[Section], columns: list[str], *, stacked: bool) -> None:
    """Make room for the legends, `stacked` one below the other or beside each other: panels may be lower than they are."""
    rows = np.concatenate([section.rows for section in sections])
    each = []
    for column in columns:
        text, categories = _categories(adata.obs[column])
        n = len(_entries(text[rows], categories, dict.fromkeys(categories, ""))[0])
        each.append(_ENTRY * (legend_rows(n) + 2))
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, max(height, 0.3 + (sum(each) if stacked else max(each))))


def _common_legends(
    figure: Any, adata: AnnData, sections: Sequence[Section], colors: dict[str, dict[str, str]]
) -> None:
    """One legend per column, right of all panels."""
    rows = np.concatenate([section.rows for section in sections])
    for number, (column, palette) in enumerate(colors.items()):
        text, categories = _categories(adata.obs[column])
        names, used = _entries(text[rows], categories, palette)
        place = "outside right upper" if number == 0 else "outside right lower"
        category_legend(figure, names, used, column, place)


def _colors(adata: AnnData, key: str, label_key: str | None, sample_key: str) -> dict[str, dict[str, str]]:
    """Color of every category of each panel; domains take those of the labels that they match."""
    domain_of, domains_ = _categories(adata.obs[key])
    stored = _stored(adata, key)
    if label_key is None:
        return {key: stored or dict(zip(domains_, category_colors(len(domains_)), strict=True))}
    label_of, labels = _categories(adata.obs[label_key])
    # Names that are shared mean the same, as of subtypes measured and predicted; numbers of clusters do not.
    if any(not _CLUSTER.fullmatch(name) for name in set(domains_) & set(labels)):
        names = list(dict.fromkeys([*domains_, *labels]))
        own = stored or {}
        spare = (color for color in category_colors(len(names) + len(own)) if color not in set(own.values()))
        by_name = {name: own.get(name) or next(spare) for name in names}
        return {key: by_name, label_key: by_name}
    palette = category_colors(len(domains_) + len(labels))
    shared = np.zeros((len(domains_), len(labels)))
    has_both = (domain_of != _MISSING) & (label_of != _MISSING)
    at = {name: i for i, name in enumerate(domains_)}, {name: i for i, name in enumerate(labels)}
    np.add.at(shared, ([at[0][name] for name in domain_of[has_both]], [at[1][name] for name in label_of[has_both]]), 1)
    home = _home(adata, domain_of, domains_, sample_key)
    matched = _matched(shared, home)
    if stored and len(set(home.tolist())) == 1:
        spare = (color for color in palette if color not in set(stored.values()))
        own = {labels[label]: stored[domains_[domain]] for domain, label in matched.items()}
        return {key: stored, label_key: {name: own.get(name) or next(spare, LIGHT_GRAY) for name in labels}}
    spare_colors = iter(palette[len(labels) :])
    return {
        label_key: dict(zip(labels, palette, strict=False)),
        key: {name: palette[matched[i]] if i in matched else next(spare_colors) for i, name in enumerate(domains_)},
    }


def _stored(adata: AnnData, key: str) -> dict[str, str] | None:
    """Colors that `uns` holds for the categories of a column, as :func:`stpredict.tl.domains` and scanpy write them."""
    import pandas as pd

    column, colors = adata.obs[key], adata.uns.get(Key.colors(key))
    if colors is None or not isinstance(column.dtype, pd.CategoricalDtype) or len(colors) != len(column.cat.categories):
        return None
    return {str(name).strip(): str(color) for name, color in zip(column.cat.categories, colors, strict=True)}


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


def _draw(
    ax: Axes, adata: AnnData, column: str, palette: dict[str, str], section: Section, alpha: float | None, picture: str,
    *, legend: bool,
) -> None:  # fmt: skip
    text, categories = _categories(adata.obs[column])
    colors = palette | {_MISSING: LIGHT_GRAY}
    section_text = text[section.rows]
    frame_section(ax, section, under=picture == "under")
    if alpha is None:
        alpha = 0.9 if picture == "under" else 1.0
    draw_spots(ax, section, colors=[colors[name] for name in section_text], alpha=alpha, edge="white")
    if legend:
        names, used = _entries(section_text, categories, palette)
        category_legend(ax, names, used, column)


def _entries(text: np.ndarray, categories: list[str], palette: dict[str, str]) -> tuple[list[str], list[str]]:
    """Names and colors of the legend: the categories that are there, and what is not assigned."""
    there = set(text)
    present = [name for name in categories if name in there]
    rest = _MISSING in there
    return [*present, *["not assigned"] * rest], [*(palette[name] for name in present), *[LIGHT_GRAY] * rest]


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
