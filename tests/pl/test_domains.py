from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from sklearn.metrics import adjusted_rand_score

from stpredict import pl
from stpredict.core._palette import PALETTE
from stpredict.pl._style import LIGHT_GRAY

pytestmark = pytest.mark.filterwarnings("ignore:the figure shows section")


def colors(ax):
    return [to_hex(c, keep_alpha=False) for c in ax.collections[0].get_facecolor()]


def entries(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_one_panel_over_the_picture(adata):
    ax = pl.domains(adata)
    assert ax.get_title() == "s1"
    assert len(ax.images) == 1
    assert entries(ax) == ["0", "1"]
    expected = np.where(adata.obs["domain"][:30] == "0", PALETTE[0].lower(), PALETTE[1].lower())
    assert colors(ax) == expected.tolist()


def test_labels_beside_with_ari(adata):
    adata.obs["domain"] = adata.obs["domain"].astype(str)
    adata.obs.loc[adata.obs_names[:3], "domain"] = "1"
    left, right = pl.domains(adata, label_key="label")
    expected = adjusted_rand_score(adata.obs["label"][:30], adata.obs["domain"][:30])
    assert left.get_title() == f"s1, domain: ARI = {expected:.2f}"
    assert right.get_title() == "label"


def test_domains_take_the_color_of_their_label(adata):
    adata.obs["domain"] = pd.Categorical(np.where(adata.obs["label"] == "tumor", "0", "1"))
    left, right = pl.domains(adata, label_key="label")
    assert colors(left) == colors(right)
    assert left.get_title().endswith("1.00")


def test_domains_of_single_sections_take_the_colors_of_their_own_labels(adata):
    number = np.where((adata.obs["label"] == "tumor") == (adata.obs["sample"] == "s1"), "0", "1")
    adata.obs["domain"] = pd.Categorical(adata.obs["sample"].astype(str) + ":" + number)
    shown = [pl.domains(adata, sample=name, label_key="label") for name in ("s1", "s2")]
    for left, right in shown:
        assert colors(left) == colors(right)
        assert left.get_title().endswith("1.00")
    assert [entries(left) for left, _ in shown] == [["s1:0", "s1:1"], ["s2:0", "s2:1"]]


def test_colors_of_uns_are_used(adata):
    adata.obs["domain"] = pd.Categorical(np.where(adata.obs["label"] == "tumor", "0", "1"), categories=["0", "1", "2"])
    adata.uns["domain_colors"] = np.array(["#123456", "#abcdef", "#000001"], dtype=object)
    expected = np.where(adata.obs["label"][:30] == "tumor", "#123456", "#abcdef").tolist()
    assert colors(pl.domains(adata)) == expected
    left, right = pl.domains(adata, label_key="label")
    assert colors(left) == colors(right) == expected
    adata.uns["domain_colors"] = ["#123456"]  # of another number of domains
    assert set(colors(pl.domains(adata))) == {PALETTE[0].lower(), PALETTE[1].lower()}


def test_names_in_common_have_the_same_color(adata):
    """Where hardly a spot agrees, too; numbers of clusters that are called alike by chance go by the spots they share."""
    other = np.where(adata.obs["label"] == "tumor", adata.obs["label"][adata.obs["label"] != "tumor"].iloc[0], "tumor")
    adata.obs["domain"] = pd.Categorical(other)
    left, right = pl.domains(adata, label_key="label")
    legends = []
    for ax in (left, right):
        legend = ax.get_legend()
        legends.append(dict(zip(entries(ax), [to_hex(h.get_color()) for h in legend.legend_handles], strict=True)))
    assert legends[0] == legends[1]
    adata.obs["domain"] = pd.Categorical(np.where(adata.obs["label"] == "tumor", "0", "1"))
    adata.obs["label"] = pd.Categorical(np.where(adata.obs["domain"] == "0", "1", "0"))
    left, right = pl.domains(adata, label_key="label")
    assert colors(left) == colors(right)


def test_labels_without_a_domain_of_their_own_have_other_colors(adata):
    adata.obs["domain"] = pd.Categorical(["0"] * adata.n_obs)
    adata.uns["domain_colors"] = ["#123456"]
    left, right = pl.domains(adata, label_key="label")
    assert set(colors(left)) == {"#123456"}
    assert len(set(colors(right))) == 2
    assert "#123456" in colors(right)


def test_more_domains_than_labels(adata):
    adata.obs["domain"] = pd.Categorical(np.arange(50) % 3)
    left, right = pl.domains(adata, label_key="label")
    assert len(set(colors(left))) == 3
    assert set(colors(right)) < set(colors(left))


def test_colors_do_not_depend_on_the_section(adata):
    adata.obs["domain"] = pd.Categorical(np.where(adata.obs["sample"] == "s1", "a", "b"))
    assert set(colors(pl.domains(adata, sample="s1"))) == {PALETTE[0].lower()}
    assert set(colors(pl.domains(adata, sample="s2"))) == {PALETTE[1].lower()}


def test_domain_ten_comes_after_two(adata):
    adata.obs["domain"] = [f"{i % 11}" for i in range(50)]
    assert entries(pl.domains(adata)) == [f"{i}" for i in range(11)]


def test_missing_labels_are_gray_and_not_scored(adata):
    adata.obs["label"] = adata.obs["label"].astype(object)
    adata.obs.iloc[:4, adata.obs.columns.get_loc("label")] = [None, np.nan, "undetermined", "Undetermined"]
    left, right = pl.domains(adata, label_key="label")
    assert colors(right)[:4] == [LIGHT_GRAY.lower()] * 4
    assert entries(right)[-1] == "not assigned"
    assert left.get_title().endswith("ARI = 1.00")
    adata.obs["label"] = np.nan
    assert pl.domains(adata, label_key="label")[0].get_title().endswith("no labels")


def test_draws_into_axes(adata):
    figure, axes = plt.subplots(1, 2)
    shown = pl.domains(adata, label_key="label", ax=axes)
    assert list(shown) == list(axes)
    assert pl.domains(adata, ax=axes[0]) is axes[0]
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match="2 axes"):
        pl.domains(adata, label_key="label", ax=axes[0])


def test_errors(adata):
    with pytest.raises(KeyError, match="tl.domains"):
        pl.domains(adata, key="other")
    with pytest.raises(KeyError, match="region"):
        pl.domains(adata, label_key="region")
    with pytest.raises(KeyError, match="s9"):
        pl.domains(adata, sample="s9")
    assert plt.get_fignums() == []


def test_the_legend_says_what_it_names(adata):
    assert pl.domains(adata).get_legend().get_title().get_text() == "domain"
    left, right = pl.domains(adata, label_key="label")
    assert [ax.get_legend().get_title().get_text() for ax in (left, right)] == ["domain", "label"]


@pytest.mark.parametrize("label_key", [None, "label"])
def test_several_sections_have_one_legend(adata, label_key):
    axes = pl.domains(adata, sample="all", label_key=label_key)
    assert axes.shape == ((2,) if label_key is None else (2, 2))
    figure = axes.flat[0].figure
    assert all(ax.get_legend() is None for ax in axes.flat)
    assert [legend.get_title().get_text() for legend in figure.legends] == ["domain", "label"][: axes.ndim]
    assert [len(ax.collections[0].get_offsets()) for ax in axes.reshape(2, -1)[:, 0]] == [30, 20]
    own = plt.subplots(1, axes.size)[1]
    assert pl.domains(adata, sample=["s1", "s2"], label_key=label_key, ax=own).flat[0] is own[0]
    with pytest.raises(ValueError, match=f"expected {axes.size} axes"):
        pl.domains(adata, sample="all", label_key=label_key, ax=own[:1])


@pytest.mark.parametrize("n", [3, 16, 20])
def test_no_legend_is_cut(adata, n):
    adata.obs["domain"] = [f"{i % n}" for i in range(50)]
    ax = pl.domains(adata, sample="s1")
    ax.figure.canvas.draw()
    box, whole = ax.get_legend().get_window_extent(), ax.figure.bbox
    assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    assert box.x1 <= whole.x1
