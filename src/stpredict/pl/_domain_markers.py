"""The best markers of each domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._palette import category_colors
from stpredict.pl._finished import finished
from stpredict.pl._style import INK, LIGHT_GRAY, one_panel, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_NEEDED = ("domain", "gene", "rank", "effect", "difference", "n")
_CMAP = "RdBu_r"  # blue and red: the two ends differ for every color deficiency
_SIZE = 0.17  # inches of a row or a column


@finished
def domain_markers(
    table: pd.DataFrame,
    *,
    n_genes: int = 4,
    domains: Sequence[str] | None = None,
    colors: Mapping[str, str] | Sequence[str] | None = None,
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how far the best markers of each domain lie above or below all other observations, in every domain.

    Parameters
    ----------
    table
        Table of :func:`stpredict.tl.domain_markers`.
    n_genes
        Genes per domain: those of the first ranks whose difference is positive; a gene stands with the domain that it marks best.
    domains
        Domains to draw, in this order; all by default.
    colors
        Color of each domain, by name or in their order, such as `adata.uns["domain_colors"]`; those of :func:`stpredict.pl.domains` by default.
    limit
        End of the color scale, in standard deviations; the 98 % quantile of what is drawn by default.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes. A row is a domain with the number of its observations, a column a gene; a dot marks the domain whose marker it is.

    Raises
    ------
    KeyError
        When the table lacks a column, or a domain is not in it.
    ValueError
        When `n_genes` is not positive, or no domain has a marker.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> table = pd.DataFrame({"domain": list("aabb"), "gene": ["KRT8", "VIM", "VIM", "KRT8"], "rank": [1, 2, 1, 2]})
    >>> table["effect"] = table["difference"] = [1.0, -1.0, 1.0, -1.0]
    >>> table["n"] = 20
    >>> ax = stp.pl.domain_markers(table)
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['KRT8', 'VIM']
    """
    import matplotlib.pyplot as plt
    from matplotlib.transforms import ScaledTranslation

    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise KeyError(f"expected the table of stp.tl.domain_markers; found no column {', '.join(missing)}")
    if isinstance(n_genes, bool) or int(n_genes) != n_genes or n_genes < 1:
        raise ValueError(f"expected n_genes to be a positive whole number; found {n_genes!r}")
    everyone = list(dict.fromkeys(table["domain"].astype(str)))
    names = everyone if domains is None else [str(name) for name in domains]
    if unknown := [name for name in names if name not in everyone]:
        raise KeyError(f"expected domains among {everyone}; found {unknown}")
    wide = table.assign(domain=table["domain"].astype(str)).pivot(index="domain", columns="gene", values="effect")
    genes, owner = _markers(table, names, int(n_genes))
    if not genes:
        raise ValueError("expected a gene that is higher in some domain; found none; look at the table")
    values = wide.loc[names, genes].to_numpy(dtype=float)
    reach = limit or float(np.nanquantile(np.abs(values), 0.98)) or 1.0
    palette = _palette(colors, everyone)
    size = table.assign(domain=table["domain"].astype(str)).groupby("domain")["n"].first()
    with style():
        ax = one_panel(ax, _SIZE * len(genes) + 2.4, max(1.4, _SIZE * len(names) + 1.2))
        image = ax.imshow(
            values, cmap=plt.get_cmap(_CMAP).with_extremes(bad=LIGHT_GRAY), vmin=-reach, vmax=reach, aspect="auto"
        )
        ax.scatter(np.arange(len(genes)), owner, s=9, color=INK, edgecolors="white", lw=0.5, zorder=3)
        # A strip in the colors of the map ties rows to its legend.
        aside = ax.get_yaxis_transform() + ScaledTranslation(-8 / 72, 0, ax.figure.dpi_scale_trans)
        ax.scatter(
            np.zeros(len(names)), np.arange(len(names)), s=30, marker="s", lw=0, clip_on=False, zorder=3,
            c=[palette[name] for name in names], transform=aside,
        )  # fmt: skip
        ax.set_yticks(np.arange(len(names)), [f"{name}  ({int(size[name]):,})" for name in names])
        ax.tick_params(axis="y", length=0, pad=16)
        ax.set_xticks(np.arange(len(genes)), genes, rotation=90, fontstyle="italic")
        ax.spines[:].set_visible(False)
        ax.set_ylabel(f"{table.attrs.get('groupby', 'domain')} (observations)")
        what = {"predicted": "predicted", "measured": "measured"}.get(table.attrs.get("use", ""), "")
        ax.set_title(f"Markers by {what} expression" if what else "Markers", loc="left")
        bar = ax.figure.colorbar(image, ax=ax, shrink=min(1.0, 1.2 / (_SIZE * len(names) + 0.4)), pad=0.02, aspect=12)
        bar.set_label("against all others (SD)")
        bar.outline.set_visible(False)
    return ax


def _markers(table: pd.DataFrame, names: list[str], n_genes: int) -> tuple[list[str], list[int]]:
    """Genes, domain by domain, and the row of the domain of each."""
    ranked = table[table["domain"].astype(str).isin(names) & (table["difference"] > 0)].copy()
    ranked["domain"] = ranked["domain"].astype(str)
    ranked = ranked.sort_values(["rank", "effect"], ascending=[True, False], kind="stable")
    home = ranked.drop_duplicates("gene")
    genes: list[str] = []
    owner: list[int] = []
    for row, name in enumerate(names):
        own = home.loc[home["domain"] == name].head(n_genes)["gene"].astype(str).tolist()
        genes += own
        owner += [row] * len(own)
    return genes, owner


def _palette(colors: Mapping[str, str] | Sequence[str] | None, names: list[str]) -> dict[str, str]:
    if isinstance(colors, Mapping):
        return {name: str(colors.get(name, LIGHT_GRAY)) for name in names}
    listed = category_colors(len(names)) if colors is None else [str(color) for color in colors]
    if len(listed) < len(names):
        raise ValueError(f"expected a color for each of {len(names)} domains; found {len(listed)}")
    return dict(zip(names, listed, strict=False))
