"""Domains against annotated regions over seeds."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import stpredict as stp
from stpredict.tl.judge._domain_agreement import domain_agreement, normalized_mutual_information

GENES = [f"g{i}" for i in range(10)]
FAST = {"n_seeds": 3, "n_permutations": 20, "progress": False}


@pytest.fixture(scope="module")
def made():
    """Two sections of 100 spots: four quarters of the square, whose expression differs by region alone."""
    rng = np.random.default_rng(0)
    x, y = np.mgrid[:10, :10].reshape(2, -1)
    region = np.array(["tumor", "fat", "stroma"])[np.where(x < 5, 0, np.where(y < 5, 1, 2))]
    region = np.tile(region, 2)
    means = {name: rng.normal(0, 3, len(GENES)) for name in ("tumor", "fat", "stroma")}
    values = np.stack([means[name] for name in region]) + rng.normal(0, 1, (200, len(GENES)))
    adata = ad.AnnData(np.exp(values / 4).astype(np.float32), var=pd.DataFrame(index=GENES))
    adata.obs["sample"] = np.repeat(["s1", "s2"], 100)
    adata.obs["label"] = pd.Categorical(region)
    adata.obsm["spatial"] = np.tile(np.column_stack([x, y]) * 200.0, (2, 1))
    adata.obsm["predicted"] = pd.DataFrame(values, adata.obs_names, GENES)
    return adata


@pytest.fixture
def adata(made):
    return made.copy()


def test_planted_regions_are_found_and_references_are_not(adata):
    before = adata.copy()
    table = domain_agreement(adata, "label", **FAST)
    assert table["sample"].tolist() == ["s1", "s2"]
    assert (table[["n_domains", "n_found"]] == 3).all(axis=None)
    assert (table[["n_labeled", "n_obs"]] == 100).all(axis=None)
    assert (table["n_seeds"] == 3).all()
    assert (table["ari"] > 0.9).all()
    assert (table["nmi"] > 0.85).all()
    assert (table["ari_shuffled"].abs() < 0.05).all()
    assert (table["nmi_shuffled"] < 0.1).all()
    assert (table["ari_rotated"] > table["ari_shuffled"]).all()
    assert (table["ari_rotated"] < table["ari"]).all()
    assert table["ari_positions"].between(0.2, 0.9).all()  # regions are contiguous: positions alone find some of them
    assert list(adata.obs) == list(before.obs)
    assert set(adata.obsm) == set(before.obsm)
    assert dict(adata.uns) == {}


def test_scores_are_those_of_domains(adata):
    adata.obs.loc[adata.obs_names[:7], "label"] = np.nan
    adata.obs["label"] = adata.obs["label"].astype(object)
    adata.obs.loc[adata.obs_names[7:9], "label"] = " Undetermined"
    adata.obsm["predicted"] += np.random.default_rng(1).normal(0, 4, (200, len(GENES)))
    table = domain_agreement(adata, "label", **FAST | {"seed": 5}).set_index("sample")
    ari, nmi = [], []
    for seed in (5, 6, 7):
        one = adata[adata.obs["sample"] == "s1"].copy()
        stp.tl.domains(one, n_domains=3, seed=seed)
        known, found = one.obs["label"].astype(str)[9:], one.obs["domain"].astype(str)[9:]
        ari.append(adjusted_rand_score(known, found))
        nmi.append(normalized_mutual_info_score(known, found))
    assert 0.02 < np.mean(ari) < 0.9
    found = table.loc["s1", ["ari", "ari_sd", "nmi", "nmi_sd"]].astype(float)
    np.testing.assert_allclose(found, [np.mean(ari), np.std(ari, ddof=1), np.mean(nmi), np.std(nmi, ddof=1)], atol=1e-9)
    assert table.loc["s1", ["n_labeled", "n_obs"]].tolist() == [91, 100]


def test_only_labels_decide_the_number_and_nothing_else(adata):
    """Labels at other places leave the domains as they are."""
    adata.obsm["predicted"] += np.random.default_rng(1).normal(0, 4, (200, len(GENES)))
    table = domain_agreement(adata, "label", **FAST)
    adata.obs["label"] = pd.Categorical(np.roll(adata.obs["label"], 17))
    moved = domain_agreement(adata, "label", **FAST)
    assert (moved["n_found"] == table["n_found"]).all()
    assert (moved["ari"] < table["ari"]).all()
    # The codes of the labels, and their order, have no influence either.
    adata.obs["label"] = pd.Categorical(np.roll(adata.obs["label"], -17)).rename_categories({"tumor": "a tumor"})
    pd.testing.assert_frame_equal(domain_agreement(adata, "label", **FAST), table)


def test_sections_without_labels_and_without_predictions_are_left_out(adata):
    adata.obs.loc[adata.obs["sample"] == "s2", "label"] = np.nan
    both = domain_agreement(adata, "label", **FAST)
    assert both["sample"].tolist() == ["s1"]
    adata.obsm["predicted"].iloc[150] = np.nan
    pd.testing.assert_frame_equal(domain_agreement(adata, "label", **FAST), both)
    # Other sections change nothing.
    alone = adata[adata.obs["sample"] == "s1"].copy()
    pd.testing.assert_frame_equal(domain_agreement(alone, "label", **FAST), both)


def test_labeled_only(adata):
    adata.obs["label"] = adata.obs["label"].astype(object)
    adata.obs.loc[adata.obs_names[10:30], "label"] = "undetermined"
    every, some = (domain_agreement(adata, "label", labeled_only=only, **FAST) for only in (False, True))
    assert every["n_obs"].tolist() == [100, 100]
    assert some["n_obs"].tolist() == [80, 100]
    assert every["n_labeled"].tolist() == some["n_labeled"].tolist() == [80, 100]
    kept = adata[adata.obs["label"] != "undetermined"].copy()
    pd.testing.assert_frame_equal(domain_agreement(kept, "label", **FAST), some)


def test_measured_expression_sparse_equals_dense_and_layers(adata):
    options = FAST | {"use": "measured", "genes": GENES[:8]}
    dense = domain_agreement(adata, "label", **options)
    assert (dense["ari"] > 0.8).all()
    other = adata.copy()
    other.layers["target"] = sparse.csr_matrix(other.X)
    other.X = None
    del other.obsm["predicted"]
    pd.testing.assert_frame_equal(domain_agreement(other, "label", layer="target", **options), dense)


def test_a_single_region_is_undefined_and_off_tissue_is_left_out(adata):
    adata.obs["in_tissue"] = True
    adata.obs.loc[adata.obs_names[90:100], "in_tissue"] = False
    adata.obs.loc[adata.obs["sample"] == "s2", "label"] = "fat"
    table = domain_agreement(adata, "label", **FAST).set_index("sample")
    assert table.loc["s1", ["n_labeled", "n_obs"]].tolist() == [90, 90]
    assert table.loc["s2"].drop(["n_domains", "n_labeled", "n_obs", "n_seeds"]).isna().all()
    assert table.loc["s2", "n_labeled"] == 100


def test_the_number_of_domains_is_a_choice_and_one_that_cannot_be_met_is_said(adata):
    assert (domain_agreement(adata, "label", n_domains=5, **FAST)["n_found"] == 5).all()
    with pytest.warns(UserWarning, match="no resolution gave .* in s1, s2"):
        table = domain_agreement(adata, "label", n_domains=101, **FAST | {"n_seeds": 1})
    assert (table["n_found"] <= 100).all()
    assert (table["n_domains"] == 101).all()
    assert table["ari_sd"].isna().all()


def test_seeds_reproduce(adata):
    adata.obsm["predicted"] += np.random.default_rng(1).normal(0, 6, (200, len(GENES)))
    first = domain_agreement(adata, "label", **FAST)
    pd.testing.assert_frame_equal(domain_agreement(adata, "label", **FAST), first)
    other = domain_agreement(adata, "label", **FAST | {"seed": 100})
    assert (other["ari_rotated"] != first["ari_rotated"]).all()


def test_mutual_information_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 60)
    drawn = np.stack([rng.integers(0, k, 60) for k in (1, 2, 5, 9)] + [labels])
    expected = [normalized_mutual_info_score(labels, row) for row in drawn]
    np.testing.assert_allclose(normalized_mutual_information(drawn, labels), expected, atol=1e-12)
    none = np.zeros(60, dtype=int)
    assert normalized_mutual_information(none[None], none).tolist() == [normalized_mutual_info_score(none, none)]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"label_key": "region"}, KeyError, "region"),
        ({"key": "other"}, KeyError, "tl.predict"),
        ({"use": "both"}, ValueError, "use"),
        ({"genes": ["g0", "zz"]}, KeyError, "genes of the panel"),
        ({"genes": ["g0"]}, ValueError, "2 genes in section 's1'"),
        ({"n_domains": 0}, ValueError, "n_domains"),
        ({"n_seeds": 0}, ValueError, "n_seeds"),
        ({"n_permutations": 0}, ValueError, "n_permutations"),
        ({"n_seeds": 1.5}, ValueError, "n_seeds"),
        ({"sample_key": "slide"}, KeyError, "slide"),
        ({"spatial_key": "place"}, KeyError, "place"),
    ],
)
def test_errors(adata, options, error, match):
    with pytest.raises(error, match=match):
        domain_agreement(adata, options.pop("label_key", "label"), **FAST | options)


def test_errors_in_the_data(adata):
    adata.obsm["predicted"].iloc[3] = np.nan
    with pytest.raises(ValueError, match="expression of section 's1'"):
        domain_agreement(adata, "label", **FAST)
    adata.obs["label"] = "undetermined"
    with pytest.raises(ValueError, match="found none on tissue"):
        domain_agreement(adata, "label", **FAST)
    adata.obs["label"] = np.where(np.arange(200) < 2, "a", "undetermined")
    with pytest.raises(ValueError, match="at least 3 observations"):
        domain_agreement(adata, "label", labeled_only=True, **FAST)
