"""Regions of sections against their annotation."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp


@pytest.fixture
def sections() -> ad.AnnData:
    """Three patients, four sections; the last one has no tumor."""
    rng = np.random.default_rng(0)
    n, sample = 160, np.repeat(["a1", "a2", "b1", "c1"], 40)
    tumor = (rng.random(n) < 0.4) & (sample != "c1")
    chance = np.clip(rng.normal(0.35 + 0.3 * tumor, 0.15), 0, 1)
    chance[sample == "c1"] = np.clip(chance[sample == "c1"], 0, 0.45)
    region = np.where(tumor, "tumor", np.where(rng.random(n) < 0.5, "fat", "stroma"))
    obs = pd.DataFrame(
        {
            "sample": sample,
            "patient": [name[0] for name in sample],
            "tumor": tumor,
            "tumor_probability": chance,
            "tumor_probability_leaky": sample == "b1",
            "region": pd.Categorical(region),
        },
        index=[f"s{i}" for i in range(n)],
    )
    adata = ad.AnnData(np.zeros((n, 1), np.float32), obs=obs)
    raw = np.stack([region == name for name in ("fat", "stroma", "tumor")], axis=1) + rng.random((n, 3))
    frame = pd.DataFrame(raw / raw.sum(axis=1, keepdims=True), adata.obs_names, ["fat", "stroma", "tumor"])
    adata.obsm["region_probability"] = frame
    return adata


def test_sections_equal_the_array_function(sections) -> None:
    table = stp.tl.segmentation(sections, baselines=False).set_index("sample")
    assert table["leaky"].to_dict() == {"a1": False, "a2": False, "b1": True, "c1": False}
    for name, row in table.iterrows():
        obs = sections.obs[sections.obs["sample"] == name]
        wanted = stp.metrics.segmentation(obs["tumor"], obs["tumor_probability"])
        assert {k: row[k] for k in wanted} == pytest.approx(wanted, nan_ok=True)
        assert row["n_undefined"] == np.isnan(list(wanted.values())).sum()
        assert row["prevalence"] == obs["tumor"].mean()
    assert table.loc["c1", "n_undefined"] == 6
    assert table["class"].unique().tolist() == ["True"]


def test_sections_without_tumor(sections) -> None:
    alone = sections[sections.obs["sample"] == "c1"].copy()
    row = stp.tl.segmentation(alone, baselines=False).iloc[0]
    assert (row["class"], row["specificity"], row["n_positive"]) == ("True", 1.0, 0)


def test_majority_of_the_other_patients(sections) -> None:
    sections.obs.loc[sections.obs["patient"] == "b", "tumor"] = True
    sections.obs.loc[sections.obs["patient"] == "c", "tumor"] = True
    table = stp.tl.segmentation(sections).query("model == 'majority'").set_index("sample")
    assert table.loc["a1", "sensitivity"] == 1
    assert table.loc["a1", "accuracy"] == table.loc["a1", "prevalence"]
    assert table.loc["a1", "auc"] == 0.5
    assert table.loc["a1", "balanced_accuracy"] == 0.5
    assert not table["leaky"].any()


def test_majority_is_blind_to_every_section_of_the_patient(sections) -> None:
    """The other section of a patient would give the majority away."""
    few = sections[:100].copy()  # the whole of patient a, and half of the section of b
    few.obs["tumor"] = few.obs["patient"] == "a"
    table = stp.tl.segmentation(few).query("model == 'majority'").set_index("sample")
    assert (table.loc[["a1", "a2"], "accuracy"] == 0).all()


def test_a_probability_at_the_threshold_is_outside(sections) -> None:
    sections.obs["tumor_probability"] = 0.25
    for threshold, sensitivity in ((0.25, 0), (0.24, 1)):
        table = stp.tl.segmentation(sections, threshold=threshold, baselines=False).set_index("sample")
        assert table.loc["a1", "sensitivity"] == sensitivity


def test_columns_of_classes_may_come_in_any_order(sections) -> None:
    before = stp.tl.segmentation(sections, "region")
    frame = sections.obsm["region_probability"]
    sections.obsm["region_probability"] = frame[frame.columns[::-1]].assign(other=0.0)
    pd.testing.assert_frame_equal(stp.tl.segmentation(sections, "region"), before)


def test_only_tissue_with_both_is_judged(sections) -> None:
    before = stp.tl.segmentation(sections)
    more = sections.copy()
    more.obs_names = "x" + more.obs_names
    more.obs["in_tissue"] = False
    sections.obs["in_tissue"] = True
    both = ad.concat([sections, more])
    pd.testing.assert_frame_equal(stp.tl.segmentation(both), before)
    sections.obs["tumor"] = sections.obs["tumor"].astype(object)
    sections.obs.iloc[0, sections.obs.columns.get_loc("tumor")] = np.nan
    sections.obs.iloc[1, sections.obs.columns.get_loc("tumor_probability")] = np.nan
    assert stp.tl.segmentation(sections)["n_obs"].tolist() == [38, 40, 40, 40] * 2


def test_several_classes_one_against_the_rest(sections) -> None:
    from sklearn.metrics import f1_score, roc_auc_score

    table = stp.tl.segmentation(sections, "region", baselines=False)
    assert len(table) == 12
    rows = sections.obs["sample"] == "a2"
    truth, frame = sections.obs["region"][rows].astype(str), sections.obsm["region_probability"][rows]
    for name in ("fat", "stroma", "tumor"):
        row = table[(table["sample"] == "a2") & (table["class"] == name)].iloc[0]
        assert row["dice"] == pytest.approx(f1_score(truth == name, frame.idxmax(axis=1) == name))
        assert row["auc"] == pytest.approx(roc_auc_score(truth == name, frame[name]))


def test_summary_counts_what_is_undefined(sections) -> None:
    whole = stp.tl.segmentation(sections)
    table = stp.tl.segmentation(sections, summarize=True, n_boot=200)
    row = table[(table["model"] == "model") & (table["score"] == "dice")].iloc[0]
    dice = whole[whole["model"] == "model"].set_index("sample")["dice"]
    assert row["mean"] == pytest.approx(((dice["a1"] + dice["a2"]) / 2 + dice["b1"]) / 2)
    assert (row["n_undefined"], row["n_sections"], row["n_patients"], row["leaky"]) == (1, 4, 3, True)
    assert row["low"] <= row["mean"] <= row["high"]
    accuracy = table[(table["model"] == "model") & (table["score"] == "accuracy")].iloc[0]
    assert accuracy["n_undefined"] == 0


def test_errors(sections) -> None:
    before = sections.copy()
    with pytest.raises(KeyError, match="annotation"):
        stp.tl.segmentation(sections, "nothing")
    with pytest.raises(KeyError, match="stp.tl.predict"):
        stp.tl.segmentation(sections, key="nothing")
    with pytest.raises(ValueError, match="one probability per class"):
        stp.tl.segmentation(sections, "region", "tumor_probability")
    sections.obsm["region_probability"] = sections.obsm["region_probability"].drop(columns="fat")
    with pytest.raises(ValueError, match="missing fat"):
        stp.tl.segmentation(sections, "region")
    sections.obs["tumor_probability"] *= 3
    with pytest.raises(ValueError, match="between 0 and 1"):
        stp.tl.segmentation(sections)
    sections.obs["tumor_probability"] = np.nan
    with pytest.raises(ValueError, match="found none"):
        stp.tl.segmentation(sections)
    sections.obs["tumor"] = "yes"
    with pytest.raises(ValueError, match="two classes or more"):
        stp.tl.segmentation(sections)
    assert list(before.obs) == list(sections.obs)
