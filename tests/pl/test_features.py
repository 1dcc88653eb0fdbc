from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from stpredict import pl
from stpredict.core._palette import PALETTE


def entries(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_pca_equals_sklearn_whatever_the_order(adata):
    ax = pl.features(adata)
    pca = PCA(2)
    expected = pca.fit_transform(StandardScaler().fit_transform(adata.obsm["X_tiny"]))
    shown = np.abs(np.asarray(ax.collections[0].get_offsets()))
    np.testing.assert_allclose(np.sort(shown, axis=0), np.sort(np.abs(expected), axis=0), atol=1e-3)
    assert ax.get_xlabel() == f"PC1 ({pca.explained_variance_ratio_[0]:.0%} of variance)"
    assert ax.get_title(loc="left") == "X_tiny"


def test_points_keep_their_color(adata):
    ax = pl.features(adata, "tiny", color="patient", seed=3)
    pca = PCA(2).fit_transform(StandardScaler().fit_transform(adata.obsm["X_tiny"]))
    shown = np.asarray(ax.collections[0].get_offsets())
    distance = np.abs(np.abs(shown)[:, None] - np.abs(pca)[None]).sum(axis=2)
    patient = adata.obs["patient"].to_numpy()[distance.argmin(axis=1)]
    colors = [to_hex(c) for c in ax.collections[0].get_facecolor()]
    assert colors == [{"p1": PALETTE[0], "p2": PALETTE[1]}[name].lower() for name in patient]
    assert entries(ax) == ["p1", "p2"]
    assert ax.get_legend().get_title().get_text() == "patient"


def test_numbers_get_a_colorbar(adata):
    adata.obs["depth"] = np.arange(50.0)
    ax = pl.features(adata, color="depth")
    assert ax.get_legend() is None
    assert ax.figure.axes[1].get_ylabel() == "depth"
    assert sorted(ax.collections[0].get_array()) == list(range(50))


def test_umap_is_reproducible(adata):
    first, second = (pl.features(adata, method="umap", seed=1).collections[0].get_offsets() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()


def test_one_constant_feature_and_missing_category(adata):
    adata.obsm["X_tiny"][:, 1:] = 1
    adata.obs["patient"] = adata.obs["patient"].where(adata.obs["patient"] == "p1")
    ax = pl.features(adata, color="patient")
    assert ax.get_ylabel() == "PC2 (0% of variance)"
    assert entries(ax) == ["p1", "missing"]


def test_draws_into_axes_and_writes_nothing(adata):
    before = set(adata.obsm), set(adata.uns), list(adata.obs)
    figure, ax = plt.subplots()
    assert pl.features(adata, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]
    assert (set(adata.obsm), set(adata.uns), list(adata.obs)) == before


def test_errors(adata):
    with pytest.raises(KeyError, match="slide"):
        pl.features(adata, color="slide")
    with pytest.raises(KeyError, match="image_features"):
        pl.features(adata, "uni")
    with pytest.raises(ValueError, match="method"):
        pl.features(adata, method="tsne")
    with pytest.raises(ValueError, match="at least 3"):
        pl.features(adata[:2].copy())
    adata.obsm["X_tiny"][:] = 1
    with pytest.raises(ValueError, match="constants only"):
        pl.features(adata)
    adata.obsm["X_tiny"][0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        pl.features(adata)
    assert plt.get_fignums() == []
