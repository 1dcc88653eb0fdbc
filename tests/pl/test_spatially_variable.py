from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from stpredict import pl


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def test_ranked_by_the_median_with_range_threshold_and_selection(adata):
    ax = pl.spatially_variable(adata)
    assert names(ax) == ["B", "C", "A", "E"]  # D was not tested
    assert ax.yaxis_inverted()
    np.testing.assert_allclose(lines(ax)["selected"].get_xdata(), [0.6, 0.2])
    np.testing.assert_allclose(lines(ax)["not selected"].get_xdata(), [0.15, 0.1])
    assert lines(ax)["not selected"].get_markerfacecolor() == "white"
    assert lines(ax)["threshold of the\nselection, 0.18"].get_xdata()[0] == 0.18
    ranges = np.array([segment[:, 0] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(ranges, [[0.5, 0.7], [0.1, 0.3], [0.1, 0.2], [0.0, 0.2]])


def test_chosen_genes_and_number(adata):
    assert names(pl.spatially_variable(adata, ["E", "B"])) == ["B", "E"]
    assert names(pl.spatially_variable(adata, n_genes=2)) == ["B", "C"]


def test_without_selection_there_is_no_legend(adata):
    del adata.var["selected"], adata.uns["stpredict"]["selected"]
    assert pl.spatially_variable(adata).get_legend() is None


def test_one_section_has_no_range(adata):
    adata.varm["moran_i"] = adata.varm["moran_i"][["s1"]]
    ax = pl.spatially_variable(adata)
    assert not ax.collections
    assert ax.get_xlabel() == "Moran's I"


def test_draws_into_axes(adata):
    figure, ax = plt.subplots()
    assert pl.spatially_variable(adata, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_errors(adata):
    with pytest.raises(KeyError, match="Q"):
        pl.spatially_variable(adata, ["Q"])
    with pytest.raises(ValueError, match="n_genes"):
        pl.spatially_variable(adata, n_genes=0)
    with pytest.raises(ValueError, match="NaN only"):
        pl.spatially_variable(adata, ["D"])
    del adata.varm["moran_i"]
    with pytest.raises(KeyError, match="pp.spatially_variable"):
        pl.spatially_variable(adata)
    assert plt.get_fignums() == []
