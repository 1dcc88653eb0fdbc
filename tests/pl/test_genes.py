from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import zscore

from stpredict import pl
from stpredict.pl._genes import _error

pytestmark = pytest.mark.filterwarnings("ignore:the figure shows section")


def spots(ax):
    return ax.collections[0]


def test_panels_and_titles(adata):
    before = adata.copy()
    axes = pl.genes(adata, ["A", "C"])
    assert axes.shape == (2, 4)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["A", "C"]
    assert axes[0, 0].get_title() == "s1: H&E"
    assert axes[0, 1].get_title() == "measured"
    assert len(axes[0, 0].images) == 1
    r = np.corrcoef(adata.X[:30, 2], adata.obsm["predicted"]["C"][:30])[0, 1]
    assert axes[1, 2].get_title() == f"r = {r:.2f}"
    assert adata.obs.equals(before.obs)
    assert set(adata.obsm) == set(before.obsm)


def test_values_and_scales(adata):
    _, measured, predicted, error = pl.genes(adata, "A")[0]
    np.testing.assert_allclose(spots(measured).get_array(), adata.X[:30, 0])
    np.testing.assert_allclose(spots(predicted).get_array(), adata.obsm["predicted"]["A"][:30])
    assert spots(measured).get_clim() == spots(predicted).get_clim()
    low, high = spots(error).get_clim()
    assert low == -high < 0
    expected = zscore(adata.obsm["predicted"]["A"][:30]) - zscore(adata.X[:30, 0])
    np.testing.assert_allclose(spots(error).get_array(), expected, rtol=1e-4, atol=1e-5)
    both = np.r_[adata.X[:30, 0], adata.obsm["predicted"]["A"][:30]]
    np.testing.assert_allclose(spots(measured).get_clim(), np.quantile(both, [0.01, 0.99]), rtol=1e-5)


def test_colorbars_name_the_unit(adata):
    axes = pl.genes(adata, "A")
    labels = [ax.get_ylabel() for ax in axes[0, 0].figure.axes if ax not in set(axes.flat)]
    assert labels == ["log1p counts per 10\u202f000", "difference of z-scores"]


def test_one_error_scale_for_all_genes(adata):
    axes = pl.genes(adata, ["A", "B"])
    assert spots(axes[0, 3]).get_clim() == spots(axes[1, 3]).get_clim()


def test_unmeasured_section_shows_picture_and_prediction(adata):
    adata.obs["measured"] = adata.obs["sample"] == "s2"
    axes = pl.genes(adata, ["A"])
    assert [ax.get_title() for ax in axes[0]] == ["s1: H&E", "predicted"]
    adata.X[20:, :] = np.nan
    del adata.obs["measured"]
    assert [ax.get_title() for ax in pl.genes(adata, ["A"], sample="s2")[0]] == ["s2: predicted"]


def test_gene_that_was_not_measured_is_gray(adata):
    axes = pl.genes(adata, ["A", "Z"])
    assert not spots(axes[0, 1]).get_array().mask.any()
    assert spots(axes[1, 1]).get_array().mask.all()
    assert axes[1, 2].get_title() == ""


def test_constant_prediction_has_no_correlation(adata):
    adata.obsm["predicted"]["A"] = 1.7
    axes = pl.genes(adata, "A")
    assert axes[0, 2].get_title() == "predicted, r undefined\npractically constant"
    assert spots(axes[0, 3]).get_array().mask.all()
    assert np.isnan(_error(np.arange(4.0)[:, None], np.full((4, 1), 0.1))).all()


def test_leaky_prediction_is_marked(adata):
    adata.obs["predicted_leaky"] = adata.obs["sample"] == "s1"
    assert pl.genes(adata, "A")[0, 2].get_title().endswith("leaky")
    assert "leaky" not in pl.genes(adata, "A", sample="s2")[0, 1].get_title()
    del adata.obs["predicted_leaky"]
    assert pl.genes(adata, "A")[0, 2].get_title().endswith(", leak unknown")


def test_sparse_and_layer_equal_dense(adata):
    dense = spots(pl.genes(adata, "B", columns=["measured"])[0, 0]).get_array()
    adata.layers["target"] = sparse.csr_matrix(adata.X)
    adata.X = sparse.csc_matrix(adata.X)
    np.testing.assert_array_equal(spots(pl.genes(adata, "B", columns=["measured"])[0, 0]).get_array(), dense)
    ax = pl.genes(adata, "B", columns=["measured"], layer="target")[0, 0]
    np.testing.assert_array_equal(spots(ax).get_array(), dense)


def test_columns_in_the_order_asked_for(adata):
    axes = pl.genes(adata, "A", columns=("error", "measured"))
    assert [ax.get_title() for ax in axes[0]] == ["s1: predicted − measured", "measured"]


def test_spatialdata(adata):
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale

    pixels = np.asarray(adata.uns["spatial"]["s1"]["images"].pop("hires"))
    scale = {"s1": Scale([2.0, 2.0], ("x", "y"))}
    with_image = Image2DModel.parse(pixels.transpose(2, 0, 1), dims=("c", "y", "x"), transformations=scale)
    data = SpatialData(images={"s1_image": with_image}, tables={"table": adata})
    axes = pl.genes(data, "A")
    assert axes.shape == (1, 4)
    adata.uns["spatial"]["s1"]["images"]["hires"] = pixels
    same = pl.genes(adata, "A")
    np.testing.assert_array_equal(axes[0, 0].images[0].get_array(), same[0, 0].images[0].get_array())


def test_picture_from_a_file(adata, tmp_path):
    from PIL import Image

    pixels = adata.uns["spatial"]["s1"]["images"].pop("hires")
    Image.fromarray(pixels).resize((300, 120)).save(tmp_path / "s1.png")
    adata.uns["spatial"]["s1"]["metadata"] = {"source_image_path": str(tmp_path / "s1.png")}
    assert len(pl.genes(adata, "A")[0, 0].images) == 1
    (tmp_path / "s1.png").unlink()
    assert pl.genes(adata, "A").shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"genes": "Q"}, KeyError, "Q"),
        ({"genes": ["A", "A"]}, ValueError, "unique"),
        ({"genes": []}, KeyError, "empty"),
        ({"key": "other"}, KeyError, "tl.predict"),
        ({"key": "X_tiny"}, ValueError, "DataFrame"),
        ({"sample": "s9"}, KeyError, "s9"),
        ({"columns": ["shadow"]}, ValueError, "columns"),
        ({"columns": []}, ValueError, "column"),
        ({"sample": "s2", "columns": ["image"]}, KeyError, "image of section 's2'"),
        ({"layer": "nothing"}, KeyError, "nothing"),
    ],
)
def test_errors_leave_no_figure(adata, options, error, message):
    with pytest.raises(error, match=message):
        pl.genes(adata, **({"genes": "A"} | options))
    assert plt.get_fignums() == []


def test_other_containers_are_refused():
    with pytest.raises(TypeError, match="AnnData or SpatialData"):
        pl.genes(pd.DataFrame(), "A")


@pytest.mark.parametrize(("fold", "said"), [(True, "not in the panel\nof this fold"), (False, "not predicted")])
def test_a_gene_without_prediction_says_so(adata, fold, said):
    """As after cross-validation, where the panel of a fold may leave a gene out."""
    adata.obsm["predicted"].loc[adata.obs["sample"] == "s1", "A"] = np.nan
    if fold:
        adata.obs["predicted_fold"] = 0
    axes = pl.genes(adata, ["A", "B"], columns=["predicted"])
    written = [[text.get_text() for text in ax.texts if "µm" not in text.get_text()] for ax in axes[:, 0]]
    assert written == [[said], []]
    assert axes[0, 0].get_title() == "s1: predicted"
    other = pl.genes(adata, "A", sample="s2", columns=["predicted"])[0, 0]
    assert said not in [text.get_text() for text in other.texts]


def test_several_sections_share_the_scales_of_their_genes(adata):
    axes = pl.genes(adata, ["A", "B"], sample="all", columns=["measured", "predicted"])
    assert axes.shape == (2, 2, 2)
    assert [row[0, 0].get_title() for row in axes] == ["s1: measured", "s2: measured"]
    for gene in range(2):
        assert len({spots(ax).get_clim() for ax in axes[:, gene].flat}) == 1
    assert spots(axes[0, 0, 0]).get_clim() != spots(axes[0, 1, 0]).get_clim()
    np.testing.assert_allclose(spots(axes[1, 1, 0]).get_array(), adata.X[30:, 1])
    assert pl.genes(adata, "A", sample=["s2"], columns=["predicted"]).shape == (1, 1, 1)


def test_a_choice_that_nobody_made_is_said(adata, recwarn):
    pl.genes(adata, "A", sample="s1")
    assert not [warning for warning in recwarn if "shows section" in str(warning.message)]
    with pytest.warns(UserWarning, match="shows section 's1', the first of 2"):
        pl.genes(adata, "A")


def test_a_narrow_range_is_written_out(adata):
    adata.X = 13.137 + adata.X * 1e-6
    bar = pl.genes(adata, "A", columns=["measured"])[0, 0].figure.axes[-1]
    assert not bar.yaxis.get_major_formatter().get_useOffset()


def test_values_are_drawn_beside_what_was_measured_of_them(adata):
    """The name of a gene among the values changes nothing; each has its own unit, and stands upright."""
    from stpredict.slots._prediction import write_predictions

    adata.obsm["scores"] = pd.DataFrame({"A": np.arange(50.0), "share": np.linspace(0, 1, 50)}, adata.obs_names)
    record = {"values_in": "scores", "units": ["µm", ""], "link": "identity", "model": "ridge"}
    write_predictions(adata, "predicted", {"predicted": adata.obsm["scores"] * 0.5}, record, names="values")
    axes = pl.genes(adata, ["A", "share"], sample="s1")
    drawn = axes[0, 1].collections[0].get_array()
    np.testing.assert_allclose(drawn, np.arange(30.0))
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["A", "share"]
    assert {ax.yaxis.label.get_fontstyle() for ax in axes[:, 0]} == {"normal"}
    labels = [ax.get_ylabel() for ax in axes.flat[0].figure.axes if ax not in set(axes.flat)]
    assert labels == ["µm", "difference of z-scores", "value", "difference of z-scores"]
