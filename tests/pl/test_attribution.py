from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from stpredict import pl


@pytest.fixture
def explained(adata):
    values = np.linspace(0, 1, 50)
    values[30:] = np.nan
    adata.obs["attribution_A"] = values
    adata.uns["stpredict"]["attribution_A"] = {"method": "gradcam", "level": "bottleneck.6"}
    return adata


def test_gradcam(explained):
    ax = pl.attribution(explained, "A")
    spots = ax.collections[0]
    np.testing.assert_array_equal(spots.get_array(), explained.obs["attribution_A"][:30])
    assert spots.get_clim() == (0, 1)
    assert ax.get_title() == "s1: A, Grad-CAM at bottleneck.6"
    assert len(ax.images) == 1
    assert ax.figure.axes[1].get_ylabel() == "Grad-CAM, scaled to 0–1"


def test_first_explained_section_is_shown(explained):
    explained.obs["attribution_A"] = np.r_[np.full(30, np.nan), np.linspace(0, 1, 20)]
    assert pl.attribution(explained, "A").get_title().startswith("s2:")


def test_integrated_gradients_are_centered_on_zero(explained):
    explained.obs["ig"] = np.r_[np.linspace(-1, 3, 29), 500, np.full(20, np.nan)]
    explained.uns["stpredict"]["ig"] = {"method": "integrated_gradients", "completeness_error": {"s1": 0.08}}
    ax = pl.attribution(explained, "A", key="ig")
    norm = ax.collections[0].norm
    assert norm.vmin == -norm.vmax
    assert norm.vmax == pytest.approx(np.nanquantile(np.abs(explained.obs["ig"]), 0.99))
    assert ax.get_title() == "s1: A, integrated gradients\n(incomplete by 8%)"


def test_several_sections_share_a_scale(explained):
    explained.obs["attribution_A"] = np.linspace(-1, 2, 50)
    axes = pl.attribution(explained, "A", sample="all", vmin=-3, vmax=3)
    assert [ax.get_title().split(",")[0] for ax in axes] == ["s1: A", "s2: A"]
    assert {ax.collections[0].get_clim() for ax in axes} == {(-3, 3)}
    assert len(axes[0].figure.axes) == 3
    explained.obs.loc[explained.obs["sample"] == "s2", "attribution_A"] = np.nan
    assert len(pl.attribution(explained, "A", sample="all")) == 1
    with pytest.raises(ValueError, match="expected an attribution in section 's2'"):
        pl.attribution(explained, "A", sample=["s1", "s2"])


def test_spots_off_tissue_are_left_out_and_given_axes_used(explained):
    explained.obs["in_tissue"] = np.arange(50) > 3
    _, given = plt.subplots()
    ax = pl.attribution(explained, "A", ax=given, cmap="magma")
    assert ax is given
    assert len(ax.collections[0].get_array()) == 26
    assert ax.collections[0].get_cmap().name == "magma"


def test_errors(explained):
    with pytest.raises(KeyError, match=r"obs\['attribution_B'\].*stp.tl.attribution"):
        pl.attribution(explained, "B")
    with pytest.raises(ValueError, match=r"section 's2'.*sample='s2'"):
        pl.attribution(explained, "A", sample="s2")
    with pytest.raises(KeyError, match="'s9'"):
        pl.attribution(explained, "A", sample="s9")
    assert not plt.get_fignums()
