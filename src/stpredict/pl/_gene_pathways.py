"""Which genes drive which pathways: a bipartite figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._palette import PALETTE, category_colors
from stpredict.core._validate import few
from stpredict.pl._finished import finished
from stpredict.pl._style import GRAY, INK, one_panel, style
from stpredict.pl._terms import shown_representatives, shown_terms

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_NEEDED = ("list", "term", "hits", "size", "q", "genes", "representative")
_WIDTH = (0.4, 3.2)  # points, of the weakest and the strongest link
_SWEEPS = 8
_PALE = 0.75  # luminance, of 1


@finished
def gene_pathways(
    table: pd.DataFrame,
    scores: pd.DataFrame | Mapping[str, float] | None = None,
    *,
    list_name: str | None = None,
    column: str = "pearson",
    n_terms: int = 8,
    n_genes: int = 6,
    alpha: float = 0.05,
    merged: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw which genes of a list stand behind its over-represented gene sets: genes on the left, sets on the right.

    A set is as good as the genes that hit it: eight sets that rest on the same four genes are one finding.

    Parameters
    ----------
    table
        Table of :func:`stpredict.tl.enrich`.
    scores
        What the width of a link says of its gene: a table with the columns `gene` and `column`, as those of
        :func:`stpredict.tl.well_predicted` and :func:`stpredict.tl.evaluate` (averaged over its rows), or a mapping.
        Without it all links are alike.
    list_name
        List of the table to draw; the first one by default.
    column
        Column of `scores`.
    n_terms
        Number of sets, the most significant ones.
    n_genes
        Number of genes of each set, those with the highest scores (or the first ones); genes that hit several of the sets
        come first among equals.
    alpha
        False-discovery rate below which a set is drawn.
    merged
        Whether to leave out sets for which another stands; "(+3)" says for how many more one stands.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes. A set has its number of hits and its size beside its name, and how many are drawn where there are more.

    Raises
    ------
    KeyError
        When a table lacks a column, or the list is none of the table's.
    ValueError
        When no set is below `alpha`, or a number is not positive.

    Examples
    --------
    >>> import stpredict as stp
    >>> background = [f"G{i}" for i in range(100)]
    >>> sets = {"first": background[:10], "last": background[5:16]}
    >>> table = stp.tl.enrich(background[:9], sets, background=background)
    >>> ax = stp.pl.gene_pathways(table, {gene: 0.5 for gene in background}, n_genes=3)
    >>> len(ax.patches)
    6
    """
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise KeyError(f"expected the table of stp.tl.enrich; found one without {few(missing)}")
    if n_terms < 1 or n_genes < 1:
        raise ValueError(f"expected n_terms and n_genes to be at least 1; found {n_terms} and {n_genes}")
    lists = list(dict.fromkeys(table["list"]))
    name = lists[0] if list_name is None else list_name
    if name not in lists:
        raise KeyError(f"expected `list_name` among {few(lists)}; found {name!r}")
    own = table[table["list"] == name]
    chosen = own[own["q"] < alpha].sort_values("q", kind="stable")
    if merged:
        chosen = chosen[chosen["representative"].isna() | (chosen["representative"] == chosen["term"])]
    chosen = chosen.head(n_terms)
    if not len(chosen):
        raise ValueError(
            f"expected a term of {name!r} with q < {alpha:g}; found none (the smallest is {own['q'].min():.2g}); raise `alpha` to look "
            "at what is nearest"
        )
    terms = [str(term) for term in chosen["term"]]
    hits = [str(genes).split(";") for genes in chosen["genes"]]
    score = _scores(scores, column)
    shared = {gene: sum(gene in row for row in hits) for row in hits for gene in row}
    top = [sorted(row, key=lambda gene: (-score.get(gene, -np.inf), -shared[gene]))[:n_genes] for row in hits]
    links = [(gene, place) for place, row in enumerate(top) for gene in row]
    genes, order = _untangled(links, len(terms))
    names = shown_representatives(own, terms) if merged else shown_terms(terms)
    labels = [
        f"{label}  {n} of {size} genes" + (f", {n_genes} drawn" if n > n_genes else "")
        for label, n, size in zip(names, chosen["hits"], chosen["size"], strict=True)
    ]
    height = max(1.8, 0.17 * max(len(genes), 2 * len(terms)) + 0.5)
    with style():
        ax = one_panel(ax, 6.4, height)
        left = {gene: 1 - (i + 0.5) / len(genes) for i, gene in enumerate(genes)}
        right = {term: 1 - (i + 0.5) / len(terms) for i, term in enumerate(order)}
        widths = _widths(links, score)
        colors = _dark_colors(len(terms))
        for (gene, term), width in zip(links, widths, strict=True):
            _link(ax, left[gene], right[term], colors[term], width)
        for gene, y in left.items():
            ax.text(-0.015, y, gene, ha="right", va="center", fontsize=7.5, style="italic")
        for term, y in right.items():
            ax.plot(1, y, marker="o", ms=6, color=colors[term], clip_on=False, zorder=3)
            ax.text(1.03, y, labels[term], ha="left", va="center", fontsize=8, color=INK)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_axis_off()
        ax.set_title(str(name), loc="left")
        if score:
            _width_legend(ax, [score[gene] for gene, _ in links if gene in score], column if scores is not None else "")
    return ax


def _scores(scores: Any, column: str) -> dict[str, float]:
    """Score of each gene that has one."""
    import pandas as pd

    if scores is None:
        return {}
    if isinstance(scores, pd.DataFrame):
        missing = [name for name in ("gene", column) if name not in scores]
        if missing:
            raise KeyError(f"expected the columns gene and {column} in `scores`; found none called {few(missing)}")
        values = scores.groupby(scores["gene"].astype(str))[column].mean()
    else:
        values = pd.Series(dict(scores), dtype=float)
    return {str(gene): float(value) for gene, value in values.dropna().items()}


def _dark_colors(n: int) -> list[str]:
    """Colors of `n` terms, without those of the palette that are too pale for a thin line on white."""
    from matplotlib.colors import to_rgb

    shades = category_colors(len(PALETTE))
    dark = [color for color in shades if np.dot(to_rgb(color), (0.299, 0.587, 0.114)) < _PALE]
    return [dark[i % len(dark)] for i in range(n)]


def _widths(links: list[tuple[str, int]], score: Mapping[str, float]) -> np.ndarray:
    """Width of each link, proportional to a positive score; genes without one have the thinnest."""
    if not score:
        return np.full(len(links), 1.2)
    values = np.array([max(score.get(gene, 0.0), 0.0) for gene, _ in links])
    top = values.max()
    return np.clip(_WIDTH[1] * values / (top if top > 0 else 1.0), *_WIDTH)


def _untangled(links: list[tuple[str, int]], n_terms: int) -> tuple[list[str], list[int]]:
    """Orders of genes and of terms with few crossings: each goes to the mean place of what it is linked to, in turn."""
    genes = list(dict.fromkeys(gene for gene, _ in links))
    row = {gene: i for i, gene in enumerate(genes)}
    linked = np.zeros((len(genes), n_terms))
    for gene, term in links:
        linked[row[gene], term] = 1
    right = np.arange(n_terms, dtype=float)
    for _ in range(_SWEEPS):
        left = np.argsort(np.argsort(linked @ right / linked.sum(axis=1), kind="stable")) / len(genes)
        right = np.argsort(np.argsort(left @ linked / linked.sum(axis=0), kind="stable")) / n_terms
    return [genes[i] for i in np.argsort(left, kind="stable")], np.argsort(right, kind="stable").tolist()


def _link(ax: Axes, left: float, right: float, color: str, width: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    curve = Path(
        [(0.0, left), (0.45, left), (0.55, right), (1.0, right)], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    )
    ax.add_patch(PathPatch(curve, facecolor="none", edgecolor=color, lw=width, alpha=0.75, capstyle="round"))


def _width_legend(ax: Axes, values: list[float], column: str) -> None:
    """What the thinnest and the thickest link stand for."""
    from matplotlib.lines import Line2D

    top = max(values, default=0.0)
    if top <= 0:
        return
    low = max(min(values), 0.0)
    handles = [
        Line2D([], [], color=GRAY, lw=float(np.clip(_WIDTH[1] * value / top, *_WIDTH)), label=f"{value:.2f}")
        for value in dict.fromkeys((low, top))
    ]
    title = {"pearson": "r of the gene"}.get(column, column.replace("_", " "))
    ax.legend(
        handles=handles, title=title, loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=2, title_fontsize=8,
        borderaxespad=0.2, handlelength=1.6,
    )  # fmt: skip
