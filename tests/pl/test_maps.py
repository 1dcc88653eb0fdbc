from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from stpredict import pl, tl
from stpredict.pl._sections import range_text

pytestmark = pytest.mark.filterwarnings("ignore:the figure shows section")


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
    assert [ax.get_ylabel() for ax in others] == ["percentile over observations,\nranges in expression"]
    tiles.obs["tile_id"] = np.arange(90)
    assert pl.maps(tiles, "A")[0, 0].figure.axes[-1].get_ylabel().startswith("percentile over tiles,")


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
    assert [ax.get_title().split("\n")[0] for ax in axes[:, 0]] == ["s1: C", "A", "B"]
    for ax, gene in zip(axes[:, 0], "CAB", strict=True):
        assert len(ax.images) == 1
        np.testing.assert_allclose(squares(ax).get_array(), percentiles(tiles.obsm["predicted"][gene][:60]))
        assert squares(ax).get_alpha() == 0.75
    assert sorted({round(ax.get_position().x0, 2) for ax in axes[:, 0]})[1:]


def test_slide_without_truth_or_picture(tiles):
    axes = pl.maps(tiles, ["A"], sample="s2")
    assert axes.shape == (1, 1)
    assert axes[0, 0].get_title().startswith("s2: A\n")
    assert not axes[0, 0].images
    del tiles.obsm["measured_st"]
    assert pl.maps(tiles, "A").shape == (1, 1)


def test_gene_that_was_not_measured(tiles):
    axes = pl.maps(tiles, ["A", "C"])
    assert squares(axes[1, 0]).get_array().mask.all()
    assert axes[1, 1].get_title() == "predicted, not scored\nno values"
    assert "r = " in axes[0, 1].get_title()


def test_constant_prediction(tiles):
    tiles.obsm["predicted"]["A"] = 1.0
    axes = pl.maps(tiles, "A")
    assert "r undefined" in axes[0, 1].get_title()
    assert axes[0, 1].get_title().endswith("\n1.00\npractically constant")
    assert len(np.unique(squares(axes[0, 1]).get_facecolor()[:55], axis=0)) == 1


def test_ranges_of_residuals_have_the_minus_of_the_colorbars():
    assert range_text(-4.9, 1.38) == "−4.90 to 1.38"
    assert range_text(-1e-7, -1e-8) == "−1.00e−07 to −1.00e−08"
    assert range_text(14.176, 14.181) == "14.176 to 14.181"
    assert range_text(-0.001, 250) == "0 to 250"
    assert range_text(0.0, 0.0) == "0"


@pytest.mark.parametrize("scale", ["percentile", "value"])
@pytest.mark.parametrize(
    ("offset", "width", "spread", "flat"),
    [
        (14.18, 0.005, None, True),
        (14.18, 0.05, None, False),
        (0.0, 0.005, None, False),
        (1.0, 0.05, 2.0, True),
        (1.0, 0.2, 2.0, False),
        (14.18, 0.005, 0.01, True),
    ],
)
def test_a_map_without_amplitude_is_flat_and_says_so(tiles, scale, offset, width, spread, flat):
    """A range that is tiny against the value, or against the spread between the patients of the training."""
    tiles.obsm["predicted"]["A"] = offset + width * np.linspace(0, 1, 90)
    if spread is not None:
        tiles.uns["stpredict"] = {"predicted": {"training_spread": np.array([spread, 1.0, 1.0])}}
    ax = pl.maps(tiles, "A", measured_key=None, scale=scale)[0, 0]
    assert ("practically constant" in ax.get_title()) is flat
    assert (squares(ax).get_array() is None) is flat
    low, high = (float(part.replace("−", "-")) for part in ax.get_title().split("\n")[1].split(":")[0].split(" to "))
    own = tiles.obsm["predicted"]["A"].to_numpy()[:60]
    np.testing.assert_allclose([low, high], np.quantile(own, [0.01, 0.99]), atol=0.2 * np.ptp(own))
    assert low < high


def test_values_have_scales_of_their_own(tiles):
    tiles.uns["stpredict"] = {"predicted": {"unit": {"method": "log2p1", "unit": "tpm"}}}
    axes = pl.maps(tiles, ["A", "B"], measured_key=None, scale="value")
    for ax, gene in zip(axes[:, 0], "AB", strict=True):
        own = tiles.obsm["predicted"][gene].to_numpy()[:60]
        np.testing.assert_array_equal(squares(ax).get_array(), own)
        np.testing.assert_allclose(squares(ax).get_clim(), np.quantile(own, [0.01, 0.99]))
    assert [ax.get_ylabel() for ax in axes[0, 0].figure.axes[-2:]] == ["log2(TPM + 1)"] * 2
    with pytest.raises(ValueError, match="scale to be one of 'percentile', 'value'"):
        pl.maps(tiles, "A", scale="rank")


@pytest.mark.parametrize(("n", "rows"), [(4, [4]), (5, [3, 2]), (6, [3, 3]), (7, [4, 3])])
def test_rows_are_filled_evenly(tiles, n, rows):
    for number in range(n):
        tiles.obsm["predicted"][f"G{number}"] = tiles.obsm["predicted"]["A"]
    axes = pl.maps(tiles, [f"G{number}" for number in range(n)], measured_key=None)
    tops = [round(ax.get_subplotspec().rowspan.start) for ax in axes[:, 0]]
    assert [tops.count(row) for row in sorted(set(tops))] == rows


@pytest.mark.parametrize("sample", ["all", ["s2", "s1"]])
def test_several_slides(tiles, sample):
    axes = pl.maps(tiles, ["A", "B"], sample=sample)
    names = ["s1", "s2"] if sample == "all" else sample
    assert axes.shape == (2, 2, 2)
    for row, name in zip(axes, names, strict=True):
        assert row[0, 0].get_title() == f"{name}: measured"
        assert len(squares(row[0, 1]).get_paths()) == (tiles.obs["sample"] == name).sum()


def test_a_choice_that_nobody_made_is_said(tiles):
    with pytest.warns(UserWarning, match=r"section 's1', the first of 2.*sample='all'"):
        pl.maps(tiles, "A")
    with pytest.raises(ValueError, match="at least one section"):
        pl.maps(tiles, "A", sample=[])
    with pytest.raises(ValueError, match="unique names in `sample`"):
        pl.maps(tiles, "A", sample=["s1", "s1"])


@pytest.mark.parametrize("turn", [0.0, 0.3])
@pytest.mark.parametrize("lattice", ["square", "hexagonal"])
def test_tiles_meet_without_overlap_on_any_lattice(tiles, lattice, turn):
    import shapely

    one = tiles[:60].copy()
    row, col = (one.obs[name].to_numpy(dtype=float) for name in ("array_row", "array_col"))
    xy = np.column_stack([col, row]) if lattice == "square" else np.column_stack([col + row % 2 / 2, row * 0.75**0.5])
    one.obsm["spatial"] = 100 * xy @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    ax = pl.maps(one, "A", measured_key=None)[0, 0]
    areas = shapely.polygons([path.vertices[:-1] for path in squares(ax).get_paths()])
    cell = 1e4 * (1.0 if lattice == "square" else 0.75**0.5)
    np.testing.assert_allclose(shapely.area(areas), cell, rtol=1e-3)
    assert shapely.area(shapely.union_all(areas)) == pytest.approx(60 * cell, rel=1e-3)


def test_positions_off_a_lattice_are_circles(tiles):
    from matplotlib.collections import EllipseCollection

    one = tiles[:60].copy()
    one.obsm["spatial"] = one.obsm["spatial"] + np.random.default_rng(0).normal(0, 15, (60, 2))
    assert isinstance(squares(pl.maps(one, "A", measured_key=None)[0, 0]), EllipseCollection)


def test_leaky_prediction_is_marked(tiles):
    tiles.obs["predicted_leaky"] = tiles.obs["sample"] == "s1"
    assert "(leaky)" in pl.maps(tiles, "A")[0, 1].get_title()
    assert "(leaky)" in pl.maps(tiles, "A", measured_key=None)[0, 0].get_title()
    assert "leaky" not in pl.maps(tiles, "A", sample="s2")[0, 0].get_title()
    del tiles.obs["predicted_leaky"]
    assert pl.maps(tiles, "A", sample="s2")[0, 0].get_title().startswith("s2: A (leak unknown)\n")


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


def test_values_stand_beside_what_was_measured_of_them(tiles):
    from stpredict.slots._prediction import prediction_frame, write_predictions

    frame = prediction_frame(tiles, "predicted").copy()
    del tiles.obsm["measured_st"]
    tiles.obsm["scores"] = frame * 2 + 1
    record = {"values_in": "scores", "units": ["µm"] * frame.shape[1], "model": "ridge"}
    write_predictions(tiles, "predicted", {"predicted": frame}, record, names="values")
    sample = tiles.obs["sample"].iloc[0]
    axes = pl.maps(tiles, list(frame.columns[:1]), sample=sample)
    assert axes.shape == (1, 2)
    assert axes[0, 0].get_title() == f"{sample}: measured"
    assert "r = 1.00" in axes[0, 1].get_title()
    assert "ranges in µm" in axes.flat[0].figure.axes[-1].get_ylabel()
    assert pl.maps(tiles, list(frame.columns[:1]), sample=sample, measured_key=None).shape == (1, 1)


def test_a_strip_of_tiles_fills_no_page() -> None:
    """Panels are at most twice as high as they are wide; what is drawn keeps its aspect."""
    n = 20
    adata = ad.AnnData(obs=pd.DataFrame({"sample": "S"}, index=[f"t{i}" for i in range(n)]))
    adata.obsm["spatial"] = np.column_stack([np.zeros(n), 100.0 * np.arange(n)])
    adata.obsm["predicted"] = pd.DataFrame({"A": np.arange(n) % 7 + 0.5}, index=adata.obs_names)
    adata.obs["predicted_leaky"] = False
    axes = pl.maps(adata, ["A"])
    figure = axes.ravel()[0].figure
    width, height = figure.get_size_inches()
    assert height < 2.5 * width
    assert axes.ravel()[0].get_aspect() == 1
