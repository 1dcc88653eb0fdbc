"""Image features in two dimensions, to see batch effects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from stpredict.core._constant import constant
from stpredict.core._palette import category_colors
from stpredict.core._validate import check_choice, check_finite
from stpredict.pl._color_bar import color_bar, column_label
from stpredict.pl._finished import finished
from stpredict.pl._style import LIGHT_GRAY, VALUE_CMAP, category_legend, one_panel, style
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

_N_PCS = 50
_N_NEIGHBORS = 15
_RASTERIZE_FROM = 5000


@finished
def features(
    data: Container,
    key: str | None = None,
    *,
    color: str = Key.SAMPLE,
    method: Literal["pca", "umap"] = "pca",
    ax: Axes | None = None,
    seed: int = 0,
    table_key: str = Key.TABLE,
) -> Axes:
    """Embed the image features and color them by section, patient or anything else in `obs`.

    Sections that form separate groups here differ in stain or scanner as much as in tissue, and a model may learn that
    difference.

    Parameters
    ----------
    data
        AnnData or SpatialData with image features.
    key
        Encoder, or slot of `obsm`; not needed when there is only one set of image features.
    color
        Column of `obs` to color by: categories get a legend, numbers a colorbar.
    method
        Kind of embedding. `"pca"`: first two principal components of the standardized features. `"umap"`: UMAP
        :cite:p:`mcinnes2018` of the first 50 of them.
    ax
        Axes to draw into; those of a new figure by default.
    seed
        Random seed for the embedding and for the order in which points are drawn, so that no section covers the others.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        When the features or the column are missing.
    ValueError
        When there are fewer than 3 observations, or features are not finite or all constant.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(2, 1, 4, n_spots=30)
    >>> stp.pp.image_features(adata, progress=False)
    >>> ax = stp.pl.features(adata, color="patient")
    """
    from stpredict.tl.learn.inputs._slots import feature_keys

    check_choice(method, ("pca", "umap"), "method")
    adata = get_table(data, table_key)
    slot = feature_keys(adata, key)[0]
    check_obs(adata, color)
    values = np.asarray(adata.obsm[slot], dtype=np.float32)
    if values.ndim != 2 or len(values) < 3:
        raise ValueError(f"expected features (n_obs, d) of at least 3 observations; found shape {values.shape}")
    check_finite(values, f"features in obsm[{slot!r}]", "run stp.pp.image_features again")
    points, labels = _embed(values, method, seed)
    order = np.random.default_rng(seed).permutation(len(points))

    with style():
        ax = one_panel(ax, 4.6, 3.4)
        _scatter(ax, points, order, adata, color)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        ax.set_title(slot, loc="left")
        if method == "umap":
            ax.set_xticks([])
            ax.set_yticks([])
    return ax


def _embed(values: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, list[str]]:
    """Two coordinates (n, 2) and the names of the axes."""
    from sklearn.decomposition import PCA

    std = values.std(axis=0)
    varying = ~constant(std, values.mean(axis=0))
    if not varying.any():
        raise ValueError("expected image features that vary; found constants only; check the images")
    scaled = (values[:, varying] - values[:, varying].mean(axis=0)) / std[varying]
    n = min(_N_PCS if method == "umap" else 2, *scaled.shape)
    pca = PCA(n, random_state=seed)
    points = pca.fit_transform(scaled)
    if method == "pca":
        share = list(pca.explained_variance_ratio_) + [0.0]
        points = points if n == 2 else np.column_stack([points, np.zeros(len(points))])
        return points, [f"PC{i + 1} ({share[i]:.0%} of variance)" for i in range(2)]
    import scanpy as sc

    from stpredict.tl.biology._neighbors import neighbors

    embedded = neighbors(points, _N_NEIGHBORS, seed)
    sc.tl.umap(embedded, random_state=seed)
    return np.asarray(embedded.obsm["X_umap"]), ["UMAP 1", "UMAP 2"]


def _scatter(ax: Axes, points: np.ndarray, order: np.ndarray, adata: AnnData, color: str) -> None:
    import pandas as pd

    column = adata.obs[color]
    x, y = points[order].T
    draw = partial(
        ax.scatter, x, y, s=float(np.clip(9000 / len(points), 3, 20)), alpha=0.8, linewidths=0,
        rasterized=len(points) >= _RASTERIZE_FROM,
    )  # fmt: skip
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        artist = draw(c=column.to_numpy(dtype=float)[order], cmap=VALUE_CMAP)
        color_bar(artist, ax, column_label(color))
        return
    categories = pd.Categorical(column)
    names = [str(name) for name in categories.categories]
    colors = np.array([*category_colors(len(names)), LIGHT_GRAY])
    draw(c=colors[categories.codes][order])
    missing = int((categories.codes < 0).any())
    category_legend(ax, names + ["missing"] * missing, list(colors[: len(names) + missing]), title=color)
