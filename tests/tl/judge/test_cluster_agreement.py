from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import stpredict as stp
from stpredict.tl.judge._cluster_agreement import adjusted_rand, eta_squared
from stpredict.tl.judge._spatial_null import displaced


@pytest.fixture
def maps() -> ad.AnnData:
    """Section `same`: domains follow the CNV map. Section `other`: both are smooth, and have nothing to do with it."""
    x, y = np.mgrid[:20, :20].reshape(2, -1)
    rng = np.random.default_rng(0)
    left = x < 8
    obs = pd.DataFrame(
        {
            "sample": np.repeat(["same", "other"], 400),
            "domain": pd.Categorical(np.r_[left, left].astype(int)),
            "cnv_cluster": np.where(np.r_[left, y < 10], "a", "b"),
            "cnv_score": np.r_[left, y < 10] + rng.normal(0, 0.4, 800),
        },
        index=[f"o{i}" for i in range(800)],
    )
    adata = ad.AnnData(obs=obs)
    adata.obsm["spatial"] = np.tile(np.column_stack([x, y]) * 50.0, (2, 1))
    return adata


def test_values_against_references(maps) -> None:
    table = stp.tl.cluster_agreement(maps, against=["cnv_cluster", "cnv_score"], n_permutations=9)
    table = table.set_index(["against", "sample"])
    for name, here in maps.obs.groupby("sample"):
        ari = adjusted_rand_score(here["cnv_cluster"], here["domain"])
        assert table.loc[("cnv_cluster", name), "value"] == pytest.approx(ari)
        mean = here.groupby("domain", observed=True)["cnv_score"].transform("mean")
        eta = ((mean - here["cnv_score"].mean()) ** 2).sum() / (
            (here["cnv_score"] - here["cnv_score"].mean()) ** 2
        ).sum()
        assert table.loc[("cnv_score", name), "value"] == pytest.approx(eta)
    assert set(table["measure"]) == {"ari", "eta2"}
    assert table["n_obs"].eq(400).all()


def test_kernels_over_many_draws() -> None:
    rng = np.random.default_rng(0)
    clusters, labels, score = rng.integers(0, 4, (20, 50)), rng.integers(0, 3, 50), rng.normal(size=50)
    expected = [adjusted_rand_score(labels, row) for row in clusters]
    np.testing.assert_allclose(adjusted_rand(clusters, labels), expected, atol=1e-12)
    total = ((score - score.mean()) ** 2).sum()
    within = [sum(((score[r == k] - score[r == k].mean()) ** 2).sum() for k in np.unique(r)) for r in clusters]
    np.testing.assert_allclose(eta_squared(clusters, score), 1 - np.array(within) / total)


def test_rotation_tells_agreement_from_smoothness(maps) -> None:
    table = stp.tl.cluster_agreement(maps, against=["cnv_cluster", "cnv_score"]).set_index(["sample", "against"])
    assert (table.loc["same", "p"] < 0.05).all()
    assert (table.loc["other", "p"] > 0.2).all()
    assert (table.loc["same", "value"] > table.loc["same", "null_high"]).all()


def test_p_counts_the_map_itself(maps) -> None:
    table = stp.tl.cluster_agreement(maps, null="shuffle", n_permutations=9)
    assert table.set_index("sample").loc["same", "p"] == pytest.approx(0.1)


def test_smooth_maps_that_overlap_by_accident_pass_a_shuffle_only(maps) -> None:
    x, y = maps.obsm["spatial"].T
    maps.obs["cnv_score"] = y + 0.3 * x  # a gradient across the halves, which a little of it follows
    options = {"against": "cnv_score", "n_permutations": 100}
    shuffled = stp.tl.cluster_agreement(maps, null="shuffle", **options)
    turned = stp.tl.cluster_agreement(maps, null="rotation", **options)
    assert (shuffled["p"] < 0.02).all()
    assert (turned["p"] > 0.1).all()
    assert (turned["null_mean"] > 5 * shuffled["null_mean"]).all()


def test_rotated_labels_remain_patches() -> None:
    x, y = np.mgrid[:15, :15].reshape(2, -1)
    section = np.repeat([0, 1], 225)
    xy = np.tile(np.column_stack([x, y]), (2, 1))
    rng = np.random.default_rng(0)
    source = displaced(section, xy, 30, "rotation", rng)
    assert (section[source] == section).all()
    label = (xy[:, 0] < 7)[source][:, :225].reshape(30, 15, 15)
    borders = (label[:, 1:] != label[:, :-1]).sum(axis=(1, 2)) + (label[:, :, 1:] != label[:, :, :-1]).sum(axis=(1, 2))
    assert borders.max() < 45
    shuffled = displaced(section, None, 30, "shuffle", rng)
    assert (np.sort(shuffled, axis=1) == np.arange(450)).all()
    assert (section[shuffled] == section).all()


def test_one_section_does_not_depend_on_the_others(maps) -> None:
    whole = stp.tl.cluster_agreement(maps)
    alone = stp.tl.cluster_agreement(maps[maps.obs["sample"] == "other"].copy())
    pd.testing.assert_frame_equal(whole[whole["sample"] == "other"].reset_index(drop=True), alone)


def test_missing_and_undefined_values(maps) -> None:
    maps.obs["in_tissue"] = np.arange(800) % 400 > 9
    maps.obs.loc[maps.obs_names[20:30], "cnv_score"] = np.nan
    maps.obs.loc[maps.obs_names[30:35], "domain"] = np.nan
    maps.obs.loc[maps.obs["sample"] == "other", "domain"] = 0
    maps.obs["flag"] = maps.obs["cnv_cluster"] == "a"
    table = stp.tl.cluster_agreement(maps, against=["cnv_score", "flag"], n_permutations=5)
    assert table["n_obs"].tolist() == [375, 390, 385, 390]
    assert table["value"].isna().tolist() == [False, True, False, True]
    assert table["measure"].tolist() == ["eta2", "eta2", "ari", "ari"]
    assert stp.tl.cluster_agreement(maps, min_observations=500)["value"].isna().all()


def test_object_is_left_as_it_was(maps) -> None:
    before = maps.copy()
    stp.tl.cluster_agreement(maps)
    assert maps.obs.equals(before.obs)


BAD = {
    "clusters": ({"clusters": "leiden"}, KeyError, "leiden"),
    "against": ({"against": ["cnv_score", "x"]}, KeyError, r"obs\['x'\]"),
    "null": ({"null": "torus"}, ValueError, "'torus'"),
    "spatial": ({"spatial_key": "xy"}, KeyError, "null='shuffle'"),
    "permutations": ({"n_permutations": 0}, ValueError, "at least one permutation"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(maps, case: str) -> None:
    options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        stp.tl.cluster_agreement(maps, **options)
