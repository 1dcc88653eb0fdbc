"""Maps of slides: measured beside predicted where there is a truth, predicted over the picture where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_unique
from stpredict.pl._style import LIGHT_GRAY, VALUE_CMAP, Section, find_section, frame_section, style
from stpredict.slots._container import find_table, get_table
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, leak_marks, mark_words
from stpredict.slots._prediction import prediction_frame
from stpredict.tl.judge._compare_to_st import MEASURED_ST, percentiles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection

    from stpredict.slots._container import Container

_PANEL = 2.1  # inches
_MAX_EXACT = 1500  # tiles up to which a title is worth an exact distance
_RASTERIZE_FROM = 2000  # tiles


def maps(
    data: Container,
    genes: str | Sequence[str],
    *,
    key: str = Key.PREDICTED,
    measured_key: str | None = MEASURED_ST,
    scores: pd.DataFrame | None = None,
    sample: str | None = None,
    n_columns: int | None = None,
    cmap: str = VALUE_CMAP,
    opacity: float | None = None,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> np.ndarray:
    """Map genes on a slide, in percentiles over its tiles: measured beside predicted, or predicted over the picture.

    Both maps of a pair cover the tiles that were measured, so that a percentile means the same in both. Titles give the
    correlation of the percentiles and the earth mover's distance with that of a uniform map, as
    :func:`stpredict.tl.compare_to_st` does. Tiles without a value are gray.

    Parameters
    ----------
    data
        AnnData of tiles or slide (SpatialData) with a predicted map.
    genes
        Genes of the prediction, one pair of panels each, or one panel each without a measured map.
    key
        Slot of the prediction in `obsm`.
    measured_key
        Slot of the measured map that :func:`stpredict.tl.compare_to_st` writes; without it, or with `None`, only the
        prediction is shown.
    scores
        Table that :func:`stpredict.tl.compare_to_st` returned, for the titles; when `None`, the scores are computed for
        the genes shown, exactly up to 1,500 tiles and sliced above.
    sample
        Slide to show; the first one by default.
    n_columns
        Number of genes side by side; when `None`, 2 with a measured map and 4 without.
    cmap
        Colormap.
    opacity
        Opacity of the tiles over the picture, 0–1; when `None`, 1 with a measured map (no picture) and 0.75 without.
    sample_key
        Column of `obs` that names the slide.
    table_key
        Table of a SpatialData; of a slide, the table with the prediction is found.

    Returns
    -------
    Axes (n_genes, 2) of measured and predicted maps, or (n_genes, 1) of predicted ones. Axes are in full-resolution
    pixels, y downward.

    Raises
    ------
    KeyError
        When the prediction, a gene or the slide is missing.
    ValueError
        When there is no tile to show, or an option is out of range.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> row, col = np.mgrid[:8, :8].reshape(2, -1)
    >>> tiles = ad.AnnData(obs=pd.DataFrame({"sample": "s"}, index=[f"tile{i}" for i in range(64)]))
    >>> tiles.obsm["spatial"] = np.column_stack([col, row]) * 256.0
    >>> tiles.obsm["predicted"] = pd.DataFrame({"A": row * 1.0, "B": col * 1.0}, index=tiles.obs_names)
    >>> axes = stp.pl.maps(tiles, ["A", "B"])
    >>> axes.shape
    (2, 1)
    """
    import matplotlib.pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    table_key = find_table(data, table_key, key)
    adata = get_table(data, table_key)
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    frame = prediction_frame(adata, key, names)
    section = find_section(data, sample=sample, spot_size=None, sample_key=sample_key, table_key=table_key)
    predicted = frame.to_numpy(dtype=float)[section.rows]
    measured = _measured(adata, measured_key, names, section)
    pairs = measured is not None
    if n_columns is not None and n_columns < 1:
        raise ValueError(f"expected n_columns of at least 1; found {n_columns}")
    if opacity is None:
        opacity = 1.0 if pairs else 0.75
    if not 0 < opacity <= 1:
        raise ValueError(f"expected an opacity above 0 and up to 1; found {opacity}")
    titles = [""] * len(names)
    if measured is not None:
        title_scores = _scores(scores, section, names, measured, predicted)
        predicted = np.where(np.isfinite(measured), predicted, np.nan)
        titles = [_title(*row) for row in title_scores]
    leaky = mark_words(joint_mark(leak_marks(adata, key)[section.rows]))

    width = 2 if pairs else 1
    beside = min(len(names), n_columns or (2 if pairs else 4))
    below = -(-len(names) // beside)
    with style():
        aspect = (section.box[2] - section.box[3]) / (section.box[1] - section.box[0])
        size = (_PANEL * beside * width + 0.8, (_PANEL * aspect + 0.2 * (1 + width)) * below + 0.3)
        figure, grid = plt.subplots(below, beside * width, figsize=size, squeeze=False, layout="constrained")
        axes = grid.reshape(below * beside, width)
        for ax in axes[len(names) :].flat:
            ax.remove()
        axes = axes[: len(names)]
        for number, name in enumerate(names):
            columns = [predicted[:, number]] if measured is None else [measured[:, number], predicted[:, number]]
            for ax, values in zip(axes[number], columns, strict=True):
                corner = number == (below - 1) * beside and ax is axes[number, 0]
                frame_section(ax, section, picture=float(opacity < 1), scale_bar=corner)
                _draw_tiles(ax, section, _percentiles(values), cmap, opacity)
            _label(axes[number], name, titles[number], section.name if number == 0 else "", leaky)
        scale = ScalarMappable(Normalize(0, 100), cmap)
        all_axes = axes.ravel().tolist()
        bar = figure.colorbar(scale, ax=all_axes, shrink=min(1.0, 0.8 / below + 0.1), aspect=22, pad=0.02)
        bar.set_label("percentile over tiles", fontsize=8)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7, length=2)
        bar.set_ticks([0, 25, 50, 75, 100])
    return axes


def _measured(adata: Any, measured_key: str | None, names: list[str], section: Section) -> np.ndarray | None:
    """Measured map of the slide (n_tiles, n_genes), NaN for genes and tiles without; `None` where there is none."""
    if measured_key is None or measured_key not in adata.obsm:
        return None
    frame = prediction_frame(adata, measured_key)
    check_unique(names, "genes")
    values = frame.reindex(columns=names).to_numpy(dtype=float)[section.rows]
    return values if np.isfinite(values).any() else None


def _scores(
    scores: pd.DataFrame | None, section: Section, names: list[str], measured: np.ndarray, predicted: np.ndarray
) -> list[tuple[float, float, float]]:
    """Correlation, distance and distance of a uniform map of each gene."""
    from stpredict.tl.judge._compare_to_st import score_maps

    columns = ["pearson", "emd", "emd_uniform"]
    if scores is not None:
        missing = [name for name in ("gene", "sample", *columns) if name not in scores]
        if missing:
            raise KeyError(f"expected the table of stp.tl.compare_to_st; found one without {', '.join(missing)}")
        table = scores[scores["sample"].astype(str) == section.name].set_index("gene")[columns]
        check_unique(table.index, f"genes of section {section.name!r} in the table of scores")
        return [tuple(row) for row in table.reindex(names).to_numpy(dtype=float)]
    values = np.full((len(names), 3), np.nan)
    is_measured = np.isfinite(measured)
    # compare_to_st leaves out the same tiles for all genes it wrote; a gene that it did not write has none.
    with_values = np.flatnonzero(is_measured.any(axis=0))
    rows = is_measured[:, with_values].all(axis=1)
    if rows.sum() > 1:
        method: Any = "exact" if rows.sum() <= _MAX_EXACT else "sliced"
        computed = score_maps(
            measured[np.ix_(rows, with_values)], predicted[np.ix_(rows, with_values)], section.xy[rows], min_unique=2,
            method=method, n_jobs=1,
        )  # fmt: skip
        values[with_values] = np.column_stack([computed[name] for name in columns])
    return [tuple(row) for row in values]


def _title(r: float, distance: float, uniform: float) -> str:
    if not np.isfinite([r, distance]).any():
        return "not scored"
    correlation = f"r = {r:.2f}" if np.isfinite(r) else "r undefined"
    return f"{correlation}\nEMD {distance:.3f}, uniform {uniform:.3f}"


def _percentiles(values: np.ndarray) -> np.ndarray:
    """Percentile of each value among the finite ones."""
    finite = np.isfinite(values)
    result = np.full(len(values), np.nan)
    result[finite] = percentiles(values[finite, None])[:, 0] if finite.any() else np.nan
    return result


def _pitch(section: Section) -> float:
    """Side of a tile on its lattice: the distance of the closest two."""
    from scipy.spatial import KDTree

    if len(section.xy) < 2:
        return section.diameter
    return float(KDTree(section.xy).query(section.xy, k=2)[0][:, 1].min()) or section.diameter


def _draw_tiles(ax: Axes, section: Section, values: np.ndarray, cmap: str, opacity: float) -> PolyCollection:
    """Draw tiles as squares around their centers, in one artist; NaN is light gray."""
    import matplotlib as mpl
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import Normalize

    half = _pitch(section) / 2
    corners = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    # Without smoothed edges neighbors meet without a seam.
    tiles = PolyCollection(
        list(section.xy[:, None] + corners), linewidths=0, antialiaseds=False, alpha=opacity, zorder=2,
        rasterized=len(values) >= _RASTERIZE_FROM,
    )  # fmt: skip
    tiles.set_cmap(mpl.colormaps[cmap].with_extremes(bad=LIGHT_GRAY))
    tiles.set_norm(Normalize(0, 100))
    tiles.set_array(np.ma.masked_invalid(values))
    ax.add_collection(tiles, autolim=False)
    return tiles


def _label(axes: np.ndarray, gene: str, title: str, slide: str, leaky: str) -> None:
    """Name the gene and, over a pair, what it shows and how well it agrees."""
    mark = f" ({leaky})" if leaky else ""
    if len(axes) == 1:
        axes[0].set_title(f"{slide}: {gene}{mark}" if slide else f"{gene}{mark}")
        return
    axes[0].set_title(f"{slide}: measured" if slide else "measured")
    axes[1].set_title(f"predicted{mark}, {title}")
    axes[0].set_ylabel(gene, fontstyle="italic", fontsize=10)
