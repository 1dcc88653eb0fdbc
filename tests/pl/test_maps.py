from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from stpredict import pl, tl


@pytest.fixture
def tiles():
    """Two slides of 60 and 30 tiles, three predicted genes, of which two were measured on most tiles of the first."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:9, :10].reshape(2, -1)
    obs = pd.DataFrame({"sample": np.repeat(["s1", "s2"], [60, 30]), "array_row": row, "array_col": col})
    adata = ad.AnnData(obs=obs.set_axis([f"t{i}" for i in range(90)]))
    adata.obsm["spatial"] = np.column_stack([col, row]) * 100.0 + 80
    values = np.column_stack([row, col, row + col]) + rng.normal(size=(90, 3))
    adata.obsm["predicted"] = pd.DataFrame(values, adata.obs_names, ["A", "B", "C"])
    measured = pd.DataFrame(values[:, :2] + rng.normal(size=(90, 2)), adata.obs_names, ["A", "B"])
    measured[55:] = np.nan
    adata.obsm["measured_st"] = measured
    image = rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)
    factors = {"tissue_hires_scalef": 0.06, "spot_diameter_fullres": 100.0, "microns_per_pixel": 0.5}
    adata.uns["spatial"] = {"s1": {"images": {"hires": image}, "scalefactors": factors}}
    adata.obs["predicted_leaky"] = False
    return adata


def squares(ax):
    return ax.collections[0]


def percentiles(values):
    return 100 * rankdata(values) / len(values)


def test_pairs(tiles):
    before = tiles.copy()
    axes = pl.maps(tiles, ["A", "B"])
    assert axes.shape == (2, 2)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["A", "B"]
    assert axes[0, 0].get_title() == "s1: measured"
    for number, gene in enumerate("AB"):
        pair = [tiles.obsm[key][gene].to_numpy()[:55] for key in ("measured_st", "predicted")]
        for ax, values in zip(axes[number], pair, strict=True):
            shown = squares(ax).get_array()
            np.testing.assert_allclose(shown[:55], percentiles(values))
            assert shown.mask.tolist() == [False] * 55 + [True] * 5
            assert squares(ax).get_clim() == (0, 100)
            assert not ax.images
        r = np.corrcoef(*map(percentiles, pair))[0, 1]
        assert f"predicted, r = {r:.2f}\nEMD 0." in axes[number, 1].get_title()
    assert set(tiles.obsm) == set(before.obsm)
    assert tiles.obs.equals(before.obs)


def test_squares_meet_around_the_centers(tiles):
    ax = pl.maps(tiles, "A")[0, 0]
    paths = squares(ax).get_paths()
    assert len(paths) == 60
    for path, center in zip(paths, tiles.obsm["spatial"][:60], strict=True):
        np.testing.assert_allclose(path.get_extents().get_points(), [center - 50, center + 50])
    bottom, top = ax.get_ylim()
    assert bottom > top
    assert squares(ax).get_transform().contains_branch(ax.transData)


def test_one_color_bar(tiles):
    axes = pl.maps(tiles, ["A", "B"])
    others = [ax for ax in axes[0, 0].figure.axes if ax not in set(axes.flat)]
    assert [ax.get_ylabel() for ax in others] == ["percentile over tiles"]


def test_titles_equal_the_table(tiles):
    rng = np.random.default_rng(1)
    spots = ad.AnnData(rng.poisson(20, (60, 2)).astype(float), var=pd.DataFrame(index=["A", "B"]))
    spots.obsm["spatial"] = tiles.obsm["spatial"][:60]
    spots.obs["sample"] = "s1"
    spots.layers["counts"] = spots.X.copy()
    table = tl.compare_to_st(tiles, spots)
    own = [ax.get_title() for ax in pl.maps(tiles, ["B", "A"])[:, 1]]
    assert [ax.get_title() for ax in pl.maps(tiles, ["B", "A"], scores=table)[:, 1]] == own
    table["pearson"] = [0.125, np.nan]
    assert "r = 0.12" in pl.maps(tiles, "A", scores=table)[0, 1].get_title()
    assert "r undefined" in pl.maps(tiles, "B", scores=table)[0, 1].get_title()
    with pytest.raises(KeyError, match="emd"):
        pl.maps(tiles, "A", scores=table.drop(columns="emd"))


def test_predicted_over_the_picture(tiles):
    axes = pl.maps(tiles, ["C", "A", "B"], measured_key=None, n_columns=2)
    assert axes.shape == (3, 1)
    assert [ax.get_title() for ax in axes[:, 0]] == ["s1: C", "A", "B"]
    for ax, gene in zip(axes[:, 0], "CAB", strict=True):
        assert len(ax.images) == 1
        np.testing.assert_allclose(squares(ax).get_array(), percentiles(tiles.obsm["predicted"][gene][:60]))
        assert squares(ax).get_alpha() == 0.75
    assert sorted({round(ax.get_position().x0, 2) for ax in axes[:, 0]})[1:]


def test_slide_without_truth_or_picture(tiles):
    axes = pl.maps(tiles, ["A"], sample="s2")
    assert axes.shape == (1, 1)
    assert axes[0, 0].get_title() == "s2: A"
    assert not axes[0, 0].images
    del tiles.obsm["measured_st"]
    assert pl.maps(tiles, "A").shape == (1, 1)


def test_gene_that_was_not_measured(tiles):
    axes = pl.maps(tiles, ["A", "C"])
    assert squares(axes[1, 0]).get_array().mask.all()
    assert axes[1, 1].get_title() == "predicted, not scored"
    assert "r = " in axes[0, 1].get_title()


def test_constant_prediction(tiles):
    tiles.obsm["predicted"]["A"] = 1.0
    axes = pl.maps(tiles, "A")
    assert "r undefined" in axes[0, 1].get_title()
    assert len(set(squares(axes[0, 1]).get_array().compressed())) == 1


def test_leaky_prediction_is_marked(tiles):
    tiles.obs["predicted_leaky"] = tiles.obs["sample"] == "s1"
    assert "(leaky)" in pl.maps(tiles, "A")[0, 1].get_title()
    assert "(leaky)" in pl.maps(tiles, "A", measured_key=None)[0, 0].get_title()
    assert "leaky" not in pl.maps(tiles, "A", sample="s2")[0, 0].get_title()
    del tiles.obs["predicted_leaky"]
    assert pl.maps(tiles, "A", sample="s2")[0, 0].get_title() == "s2: A (leak unknown)"


def test_slide_container(tiles):
    from spatialdata import SpatialData

    expected = squares(pl.maps(tiles, "A")[0, 1]).get_array()
    data = SpatialData(tables={"toy_tiles": tiles})
    np.testing.assert_array_equal(squares(pl.maps(data, "A")[0, 1]).get_array(), expected)


def test_one_tile(tiles):
    axes = pl.maps(tiles[:1].copy(), "A", measured_key=None)
    extents = squares(axes[0, 0]).get_paths()[0].get_extents()
    assert extents.width == extents.height == 100


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"genes": "Q"}, KeyError, "Q"),
        ({"genes": []}, KeyError, "empty"),
        ({"genes": ["A", "A"]}, ValueError, "unique"),
        ({"key": "other"}, KeyError, "tl.predict"),
        ({"sample": "s9"}, KeyError, "s9"),
        ({"n_columns": 0}, ValueError, "n_columns"),
        ({"opacity": 0}, ValueError, "opacity"),
        ({"measured_key": "spatial"}, ValueError, "DataFrame"),
    ],
)
def test_errors_leave_no_figure(tiles, options, error, message):
    with pytest.raises(error, match=message):
        pl.maps(tiles, **({"genes": "A"} | options))
    assert plt.get_fignums() == []
