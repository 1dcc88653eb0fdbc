import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import stpredict as stp
from stpredict.core._palette import category_colors
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record
from stpredict.tl.biology._cluster import _search, neighbor_means, smoothed, without_small
from stpredict.tl.biology._domains import domains

GENES = [f"g{i}" for i in range(12)]


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    truth = np.tile(np.repeat([0, 1, 2], 40), 2)
    values = rng.normal(rng.normal(0, 3, (3, 12))[truth], 1.0).astype(np.float32)
    adata = ad.AnnData(np.exp(values / 4), var=pd.DataFrame(index=GENES))
    adata.obs["sample"] = np.repeat(["s1", "s2"], 120)
    adata.obs["label"] = pd.Categorical(np.array(["tumor", "fat", "stroma"])[truth])
    adata.obsm["predicted"] = pd.DataFrame(values, adata.obs_names, GENES)
    return adata


@pytest.fixture
def adata(made):
    return made.copy()


def test_finds_the_groups_and_compares_with_labels(adata):
    adata.obs["label"] = adata.obs["label"].astype(object)
    adata.obs.loc[adata.obs_names[:5], "label"] = np.nan
    adata.obs.loc[adata.obs_names[5:7], "label"] = "Undetermined"
    assert domains(adata, n_domains=3, label_key="label") is None
    found = adata.obs["domain"]
    assert isinstance(found.dtype, pd.CategoricalDtype)
    assert found.cat.categories.tolist() == ["0", "1", "2"]
    assert adata.obsm["predicted_pca"].shape == (240, 11)
    record = read_record(adata, "domain")
    assert record["n_found"] == 3
    assert record["n_unlabeled"] == 7
    known, ours = adata.obs["label"].astype(str)[7:], found.astype(str)[7:]
    assert record["ari"] == pytest.approx(adjusted_rand_score(known, ours))
    assert record["nmi"] == pytest.approx(normalized_mutual_info_score(known, ours))
    assert record["ari"] > 0.95


def test_labels_do_not_influence_the_domains(adata):
    with_labels = domains(adata, n_domains=4, label_key="label", copy=True)
    domains(adata, n_domains=4)
    assert adata.obs["domain"].tolist() == with_labels.obs["domain"].tolist()
    assert "ari" not in read_record(adata, "domain")


def test_copy_equals_in_place_and_leaves_the_original(adata):
    before = adata.copy()
    changed = domains(adata, resolution=0.5, copy=True)
    assert list(adata.obs) == list(before.obs)
    assert set(adata.obsm) == set(before.obsm)
    assert dict(adata.uns) == dict(before.uns)
    domains(adata, resolution=0.5)
    assert adata.obs["domain"].tolist() == changed.obs["domain"].tolist()
    np.testing.assert_array_equal(adata.obsm["predicted_pca"], changed.obsm["predicted_pca"])
    assert read_record(adata, "domain")["resolution"] == 0.5


def test_components_match_sklearn(adata):
    from sklearn.decomposition import PCA

    domains(adata, n_pcs=4)
    expected = PCA(4, svd_solver="full").fit_transform(adata.obsm["predicted"].to_numpy(dtype=float))
    np.testing.assert_allclose(np.abs(adata.obsm["predicted_pca"]), np.abs(expected), rtol=1e-3, atol=1e-3)


def test_measured_expression_sparse_equals_dense(adata):
    domains(adata, use="measured", n_domains=3, key_added="measured_domain")
    other = adata.copy()
    other.X = sparse.csr_matrix(other.X)
    domains(other, use="measured", n_domains=3, key_added="measured_domain")
    assert adjusted_rand_score(adata.obs["measured_domain"], other.obs["measured_domain"]) == 1
    assert adjusted_rand_score(adata.obs["measured_domain"], adata.obs["label"]) > 0.9
    assert "measured_pca" in adata.obsm
    assert "domain" not in adata.obs
    adata.layers["target"] = adata.X
    adata.X = None
    domains(adata, use="measured", layer="target", n_domains=3)
    assert adata.obs["domain"].tolist() == adata.obs["measured_domain"].tolist()


def test_genes_are_a_choice(adata):
    domains(adata, genes=GENES[:4])
    assert adata.obsm["predicted_pca"].shape[1] == 3
    assert read_record(adata, "domain")["n_genes"] == 4


def test_per_sample(adata):
    adata.obs.loc[adata.obs["sample"] == "s2", "label"] = np.nan
    domains(adata, n_domains=3, per_sample=True, label_key="label")
    assert adata.obs["domain"].cat.categories.tolist() == ["s1:0", "s1:1", "s1:2", "s2:0", "s2:1", "s2:2"]
    assert (adata.obs["domain"].astype(str).str[:2] == adata.obs["sample"].astype(str)).all()
    record = read_record(adata, "domain")
    assert record["samples"] == ["s1", "s2"]
    assert record["n_found"] == [3, 3]
    assert record["ari"][0] > 0.9
    assert np.isnan(record["ari"][1])
    alone = adata[adata.obs["sample"] == "s2"].copy()
    domains(alone, n_domains=3)
    assert adjusted_rand_score(alone.obs["domain"], adata.obs["domain"][120:]) == 1


def test_unreachable_number_is_said(adata):
    with pytest.warns(UserWarning, match="no resolution gave 239 domains"):
        domains(adata, n_domains=239)
    assert read_record(adata, "domain")["n_found"] == adata.obs["domain"].nunique() != 239


def test_search_bisects_and_keeps_the_nearest():
    asked = []

    def leiden(resolution):
        asked.append(resolution)
        return np.arange(60) % max(1, int(resolution * 2) // 2 * 2), []

    labels, used, _ = _search(leiden, 6)
    assert len(np.unique(labels)) == 6
    assert 3 <= used < 4
    assert len(asked) < 10
    labels, _, _ = _search(leiden, 7)
    assert len(np.unique(labels)) in (6, 8)


def test_survives_h5ad(adata, tmp_path):
    domains(adata, n_domains=3, per_sample=True, label_key="label")
    adata.write_h5ad(tmp_path / "domains.h5ad")
    again = ad.read_h5ad(tmp_path / "domains.h5ad")
    assert again.obs["domain"].tolist() == adata.obs["domain"].tolist()
    assert read_record(again, "domain") == read_record(adata, "domain")


def test_spatialdata(adata):
    from spatialdata import SpatialData

    sdata = SpatialData(tables={"spots": adata})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = domains(sdata, n_domains=3, copy=True, table_key="spots")
    assert "domain" in changed["spots"].obs
    assert "domain" not in sdata["spots"].obs


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"key": "other"}, KeyError, "tl.predict"),
        ({"use": "both"}, ValueError, "use"),
        ({"genes": ["g0", "zz"]}, KeyError, "genes of the panel"),
        ({"genes": ["g0"]}, ValueError, "2 genes"),
        ({"label_key": "regions"}, KeyError, "regions"),
        ({"n_domains": 0}, ValueError, "n_domains"),
        ({"resolution": -1.0}, ValueError, "resolution"),
        ({"n_neighbors": 0}, ValueError, "n_neighbors"),
        ({"per_sample": True, "sample_key": "slide"}, KeyError, "slide"),
    ],
)
def test_errors_leave_the_object_alone(adata, options, error, match):
    before = adata.copy()
    with pytest.raises(error, match=match):
        domains(adata, **options)
    assert list(adata.obs) == list(before.obs)
    assert set(adata.obsm) == set(before.obsm)
    assert dict(adata.uns) == {}


def test_panels_of_folds_are_cut_to_what_all_predicted(adata):
    adata.obsm["predicted"].iloc[:100, 2] = np.nan
    adata.obsm["predicted"].iloc[100:, [5, 7]] = np.nan
    kept = [gene for number, gene in enumerate(GENES) if number not in (2, 5, 7)]
    with pytest.warns(UserWarning, match=f"3 of 12 genes in obsm\\['predicted'\\] .* the other {len(kept)} are used"):
        domains(adata, n_domains=3)
    given = domains(adata, genes=kept, n_domains=3, copy=True)
    assert adata.obs["domain"].tolist() == given.obs["domain"].tolist()
    assert read_record(adata, "domain")["n_genes"] == len(kept)
    with pytest.raises(ValueError, match="NaN or infinity"):
        domains(adata, genes=GENES)


def test_out_of_fold_predictions(toy):
    toy.X[:, [0, 5]] = np.arange(72)[:, None] % 2  # genes that are high in one patient each
    toy.X[:24, 0], toy.X[24:48, 5] = 200, 200
    stp.pp.normalize(toy)
    target = {"panel": {"method": "mean", "n_genes": 5}}
    stp.tl.cross_validate(toy, ["ridge"], target=target, metrics=["pearson"], ceiling=False, baselines=False)
    frame = prediction_frame(toy, "predicted_ridge")
    assert frame.isna().any(axis=None)
    with pytest.warns(UserWarning, match="as when folds choose genes"):
        domains(toy, "predicted_ridge")
    assert read_record(toy, "domain")["n_genes"] == frame.notna().all().sum() > 1


def test_colors_are_written_for_all_tools(adata):
    domains(adata, n_domains=3)
    assert adata.uns["domain_colors"] == category_colors(3)
    domains(adata, per_sample=True, n_domains=2, key_added="own")
    assert len(adata.uns["own_colors"]) == len(adata.obs["own"].cat.categories)


def test_missing_values_and_few_observations(adata):
    with pytest.raises(ValueError, match="at least 3 observations"):
        domains(adata[:2].copy())
    adata.obsm["predicted"].iloc[3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 rows"):
        domains(adata)


def lattice(side: int = 16, noise: float = 2.5) -> ad.AnnData:
    """Two halves of a square section, told apart by noisy genes."""
    rng = np.random.default_rng(0)
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) * 100.0
    half = (xy[:, 0] >= side * 50).astype(int)
    values = rng.normal(np.array([[-1.0], [1.0]])[half], noise, (side**2, 12))
    adata = ad.AnnData(np.zeros((side**2, 0)), obsm={"spatial": xy})
    adata.obs["sample"], adata.obs["half"] = "s", half.astype(str)
    adata.obsm["predicted"] = pd.DataFrame(values, adata.obs_names, GENES)
    return adata


def test_smoothing_finds_regions_that_noise_hides():
    found = []
    for smooth in (0.0, 0.5):
        adata = lattice()
        domains(adata, n_domains=2, smooth=smooth, label_key="half")
        found.append(read_record(adata, "domain")["ari"])
    assert found[1] > 0.85
    assert found[0] < found[1] - 0.1


def test_smoothed_components_are_means_of_own_and_neighbors():
    adata = lattice()
    domains(adata, key_added="plain", n_pcs=3)
    plain = adata.obsm["predicted_pca"].copy()
    domains(adata, smooth=0.25, n_pcs=3)
    at = 5 * 16 + 7
    around = [at + 16 * row + column for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
    np.testing.assert_allclose(
        adata.obsm["predicted_pca"][at], 0.75 * plain[at] + 0.25 * plain[around].mean(axis=0), rtol=1e-4, atol=1e-5
    )
    corner = [1, 16, 17]
    np.testing.assert_allclose(
        adata.obsm["predicted_pca"][0], 0.75 * plain[0] + 0.25 * plain[corner].mean(axis=0), rtol=1e-4, atol=1e-5
    )
    assert read_record(adata, "domain")["smooth"] == 0.25


def test_neighbors_are_six_on_a_hexagonal_lattice_and_none_beyond_a_gap_or_in_another_section():
    row, column = np.divmod(np.arange(100), 10)
    xy = np.stack([column * 100.0 + 50 * (row % 2), row * 50 * 3**0.5], axis=1)
    adata = ad.AnnData(np.zeros((201, 0)), obsm={"spatial": np.vstack([xy, xy + [1.0, 1.0], [[9e4, 0]]])})
    adata.obs["sample"] = ["a"] * 100 + ["b"] * 101
    weights = neighbor_means(adata, "sample", "smooth")
    assert np.diff(weights.indptr)[[44, 144]].tolist() == [6, 6]
    assert weights[:100, 100:].nnz == weights[100:, :100].nnz == weights[200].nnz == weights[:, 200].nnz == 0
    np.testing.assert_allclose(np.asarray(weights[:200].sum(axis=1)).ravel(), 1)
    components = np.random.default_rng(0).normal(size=(201, 2)).astype(np.float32)
    mixed = smoothed(components, weights, np.arange(201), 0.5)
    np.testing.assert_array_equal(mixed[200], components[200])


def test_small_domains_are_merged_into_the_most_similar_one():
    components = np.array([0.0] * 10 + [5.0] * 8 + [0.8] * 2 + [4.0] * 3 + [4.4])[:, None]
    labels = np.repeat([3, 1, 0, 2, 4], [10, 8, 2, 3, 1])
    found, merged = without_small(labels, components, 5)
    assert np.bincount(found).tolist() == [12, 12]
    assert len({*found[:10], *found[18:20]}) == len({*found[10:18], *found[20:]}) == 1
    assert [n for _, n in merged] == [1, 2, 4]  # the single one joined the three, which were then four
    everything, _ = without_small(labels, components, 100)
    assert set(everything) == {0}
    same, none = without_small(labels, components, 0)
    assert np.bincount(same).tolist() == [10, 8, 3, 2, 1]
    assert none == []


def test_merged_domains_are_recorded_and_count_for_n_domains(adata):
    domains(adata, resolution=4.0, min_size=30)
    record = read_record(adata, "domain")
    assert adata.obs["domain"].value_counts().min() >= 30
    assert record["n_found"] == adata.obs["domain"].nunique()
    assert len(record["merged_into"]) == len(record["merged_n"]) > 0
    assert set(record["merged_into"]) <= set(adata.obs["domain"])
    domains(adata, n_domains=3, min_size=20)
    assert adata.obs["domain"].nunique() == 3
    with pytest.warns(UserWarning, match="left one domain"):
        domains(adata, min_size=1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smooth": 1.0}, "smooth from 0"),
        ({"smooth": -0.1}, "smooth"),
        ({"min_size": -1}, "min_size"),
        ({"min_size": 2.5}, "min_size"),
    ],
)
def test_options_out_of_range_are_refused(adata, options, message):
    with pytest.raises(ValueError, match=message):
        domains(adata, **options)


def test_smoothing_needs_positions(adata):
    with pytest.raises(KeyError, match=r"spatial.*smooth"):
        domains(adata, smooth=0.5)


@pytest.mark.parametrize("per_sample", [False, True])
def test_domains_that_are_the_folds_are_told(adata, per_sample) -> None:
    """Each fold has a model of its own, whose level is not a matter of the tissue."""

    def said(fold, **options) -> list[str]:
        adata.obs["predicted_fold"] = fold
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            domains(adata, n_domains=2, per_sample=per_sample, **options)
        return [str(one.message) for one in found if "follow the folds" in str(one.message)]

    fold = np.tile([0, 1], 120)
    assert not said(fold)
    adata.obsm["predicted"] += (40 * fold)[:, None]
    assert "take the prediction of one model" in said(fold)[0]
    assert not said(fold, use="measured")
    assert not said(0)
