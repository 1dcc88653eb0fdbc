from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from stpredict import metrics as m
from stpredict import pl, tl
from stpredict.pl._style import BLUE, VERMILION


@pytest.fixture
def bounded(adata):
    """Intervals of width 2 around the predictions; none for the first spots of the section, which are a calibration."""
    for name, shift in (("lower", -1.0), ("upper", 1.0)):
        adata.obsm[f"predicted_{name}"] = adata.obsm["predicted"] + shift
        adata.obsm[f"predicted_{name}"].iloc[:6] = np.nan
    adata.uns["stpredict"]["predicted_conformal"] = {"level": 0.9}
    return adata


def points(ax):
    return [line for line in ax.lines if line.get_marker() == "o"]


def test_intervals_in_the_order_of_the_predictions(bounded):
    axes = pl.uncertainty(bounded, ["B", "A"], sample="s1")
    assert axes.shape == (2, 3)
    predicted = bounded.obsm["predicted"]["B"].to_numpy()[6:30]
    order = np.argsort(predicted)
    measured = bounded.X[6:30, 1][order]
    (bars,) = axes[0, 2].collections
    np.testing.assert_allclose([path[:, 1] for path in bars.get_segments()], predicted[order, None] + [-1.0, 1.0])
    inside = np.abs(measured - predicted[order]) <= 1
    for line, mask, color in zip(points(axes[0, 2]), (inside, ~inside), (BLUE, VERMILION), strict=True):
        assert to_rgba(line.get_color()) == to_rgba(color)
        np.testing.assert_allclose(line.get_xydata(), np.column_stack([np.flatnonzero(mask), measured[mask]]))
    assert axes[0, 2].get_title() == f"90% calibrated interval: {inside.mean():.0%} inside"
    assert axes[1, 2].get_title().endswith("inside")
    assert [ax.get_title() for ax in axes[0, :2]] == ["s1: predicted", "half the interval\npractically constant: 1.00"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["B", "A"]


def test_the_spread_is_that_of_the_model(bounded):
    std = bounded.obsm["predicted"].abs() + 0.1
    bounded.obsm["predicted_std"] = std
    axes = pl.uncertainty(bounded, "C", sample="s2")
    assert axes[0, 1].get_title() == "standard deviation"
    for ax, values in zip(axes[0, :2], (bounded.obsm["predicted"]["C"], std["C"]), strict=True):
        np.testing.assert_allclose(ax.collections[0].get_array(), values.iloc[30:])


def test_quantiles_of_samples_where_nobody_has_calibrated(toy_samples):
    axes = pl.uncertainty(toy_samples, "A", sample="s2")
    low, high = m.sample_quantiles(toy_samples.obsm["predicted_samples"], [0.1, 0.9]).transpose(1, 0, 2)
    coverage = m.interval_coverage(toy_samples.X[30:, :1], low[30:, :1], high[30:, :1])[0]
    assert axes[0, 2].get_title() == f"80% of the samples: {coverage:.0%} inside"


@pytest.fixture
def toy_samples(adata):
    rng = np.random.default_rng(1)
    adata.obsm["predicted"] = adata.obsm["predicted"][["A", "B"]]
    samples = adata.obsm["predicted"].to_numpy()[:, None] + rng.normal(size=(50, 30, 2))
    adata.obsm["predicted_quantiles"] = m.sample_quantiles(samples, [0.1, 0.5, 0.9])
    adata.obsm["predicted_samples"] = samples
    adata.uns["stpredict"]["predicted"] = {"quantiles": [0.1, 0.5, 0.9]}
    return adata


def test_a_gene_that_was_not_measured_has_intervals_alone(bounded):
    ax = pl.uncertainty(bounded, "Z", sample="s2")[0, 2]
    assert ax.get_title() == "90% calibrated interval: nothing measured"
    assert [len(line.get_xdata()) for line in points(ax)] == [0, 0]


def test_after_conformal(adata):
    adata.obsm["predicted"] = adata.obsm["predicted"][["A", "B"]]
    tl.conformal(adata, calibration=(adata.obs["patient"] == "p2").to_numpy())
    ax = pl.uncertainty(adata, "A", sample="s1")[0, 2]
    coverage = np.mean((adata.X[:30, 0] >= adata.obsm["predicted_lower"][:30, 0]) & (adata.X[:30, 0] <= adata.obsm["predicted_upper"][:30, 0]))  # fmt: skip
    assert ax.get_title() == f"90% calibrated interval: {coverage:.0%} inside"


def test_without_bounds_and_quantiles_it_says_what_to_call(adata):
    with pytest.raises(
        KeyError, match=r"expected bounds in obsm\['predicted_lower'\].*call stp.tl.conformal, or stp.tl.predict"
    ):
        pl.uncertainty(adata, "A", sample="s1")
