from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as stp


@pytest.fixture
def predicted(toy) -> ad.AnnData:
    """Three patients with two sections each; a prediction of five of six genes and of one that was not measured."""
    rng = np.random.default_rng(1)
    values = toy.X[:, :5] * 0.5 + rng.normal(1, 0.1, (72, 5))
    toy.obsm["predicted"] = pd.DataFrame(values, toy.obs_names, toy.var_names[:5]).assign(Z=1.0)
    toy.obs["predicted_leaky"] = (toy.obs["patient"] == "p1").to_numpy()
    return toy


def test_mean_per_slide_and_patient(predicted) -> None:
    predicted.obs["in_tissue"] = np.arange(72) % 12 != 3
    inside = predicted[predicted.obs["in_tissue"]]
    slides = stp.tl.pseudobulk(predicted, by="sample")
    assert slides.obs_names.tolist() == [f"s{i}" for i in range(6)]
    expected = inside.obsm["predicted"].groupby(inside.obs["sample"].to_numpy()).mean()
    np.testing.assert_allclose(slides.X, expected)
    assert slides.obs["n_obs"].eq(11).all()
    assert slides.obs["leaky"].tolist() == [False, False, True, True, False, False]
    truth = inside.to_df().groupby(inside.obs["sample"].to_numpy()).mean().iloc[:, :5]
    np.testing.assert_allclose(slides.layers["measured"][:, :5], truth, rtol=1e-6)
    assert np.isnan(slides.layers["measured"][:, 5]).all()
    people = stp.tl.pseudobulk(predicted)
    np.testing.assert_allclose(people.X, expected.to_numpy().reshape(3, 2, 6).mean(axis=1))
    assert people.obs["patient"].tolist() == ["p0", "p1", "p2"]
    assert people.obs["n_samples"].eq(2).all()
    assert people.uns["stpredict"]["pseudobulk"]["by"] == "patient"


def test_slides_of_a_patient_weigh_the_same(predicted) -> None:
    small = predicted[np.r_[0:2, 12:72]].copy()
    slides, people = stp.tl.pseudobulk(small, by="sample"), stp.tl.pseudobulk(small)
    np.testing.assert_allclose(people.X[0], (slides.X[0] + slides.X[1]) / 2)


def test_linear_scale(predicted) -> None:
    bulk = stp.tl.pseudobulk(predicted, by="sample", scale="linear")
    for values, found in ((predicted.X[:12, :5], bulk.layers["measured"][0, :5]),
                          (predicted.obsm["predicted"].to_numpy()[:12], bulk.X[0])):  # fmt: skip
        np.testing.assert_allclose(found, np.log1p(np.expm1(values.astype(float)).mean(axis=0)), rtol=1e-6)
    assert (bulk.layers["measured"][:, :5] >= stp.tl.pseudobulk(predicted, by="sample").layers["measured"][:, :5]).all()


def test_slides_of_a_patient_are_averaged_as_they_are_on_either_scale(predicted) -> None:
    for scale in ("log", "linear"):
        slides = stp.tl.pseudobulk(predicted, by="sample", scale=scale)
        people = stp.tl.pseudobulk(predicted, scale=scale)
        np.testing.assert_allclose(people.X, slides.X.reshape(3, 2, 6).mean(axis=1))


def test_linear_scale_of_another_logarithm(predicted) -> None:
    del predicted.uns["stpredict"]["normalize"]
    predicted.uns["log1p"] = {"base": 2}
    bulk = stp.tl.pseudobulk(predicted, by="sample", scale="linear")
    values = predicted.obsm["predicted"].to_numpy()[:12]
    np.testing.assert_allclose(bulk.X[0], np.log2(1 + (2**values - 1).mean(axis=0)))


def test_one_leaky_observation_makes_a_slide_leaky(predicted) -> None:
    predicted.obs["predicted_leaky"] = np.arange(72) == 13
    assert stp.tl.pseudobulk(predicted, by="sample").obs["leaky"].tolist() == [False, True] + [False] * 4
    assert stp.tl.pseudobulk(predicted).obs["leaky"].tolist() == [True, False, False]


def test_a_lost_mark_is_unknown_for_the_whole_slide_and_patient(predicted, tmp_path) -> None:
    marks = predicted.obs["predicted_leaky"].astype(object)
    marks.iloc[[0, 13]] = [None, True]
    predicted.obs["predicted_leaky"] = marks
    slides = stp.tl.pseudobulk(predicted, by="sample")
    assert slides.obs["leaky"].tolist() == ["unknown", "True", "True", "True", "False", "False"]
    slides.write_h5ad(tmp_path / "bulk.h5ad")
    assert ad.read_h5ad(tmp_path / "bulk.h5ad").obs["leaky"].tolist() == slides.obs["leaky"].tolist()
    assert stp.tl.pseudobulk(predicted).obs["leaky"].tolist() == [True, True, False]
    del predicted.obs["predicted_leaky"]
    bulk = stp.tl.pseudobulk(predicted)
    assert bulk.obs["leaky"].tolist() == ["unknown"] * 3
    assert set(stp.tl.pseudobulk_agreement(bulk)["leaky"]) == {"unknown"}


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_sparse_is_dense(predicted, scale: str) -> None:
    dense = stp.tl.pseudobulk(predicted, scale=scale)
    predicted.X = sparse.csr_matrix(predicted.X)
    np.testing.assert_allclose(stp.tl.pseudobulk(predicted, scale=scale).layers["measured"], dense.layers["measured"])


def test_gaps(predicted) -> None:
    predicted.obs["measured"] = ~predicted.obs["sample"].isin(["s0", "s2", "s3"]).to_numpy()
    predicted.obsm["predicted"].iloc[:12] = np.nan
    predicted.obsm["predicted"].iloc[12:20, 0] = np.nan
    bulk = stp.tl.pseudobulk(predicted, by="sample")
    assert bulk.obs_names.tolist() == ["s1", "s2", "s3", "s4", "s5"]
    assert bulk.X[0, 0] == pytest.approx(predicted.obsm["predicted"].iloc[20:24, 0].mean())
    assert np.isnan(bulk.layers["measured"][1:3]).all()
    predicted.obs["measured"] = False
    assert "measured" not in stp.tl.pseudobulk(predicted).layers


def test_training_mean_and_storage(predicted, tmp_path) -> None:
    mean = pd.DataFrame(np.tile(np.arange(6.0), (72, 1)), predicted.obs_names, predicted.obsm["predicted"].columns)
    predicted.obsm["predicted_baseline_mean"] = mean
    bulk = stp.tl.pseudobulk(predicted)
    np.testing.assert_allclose(bulk.layers["baseline_mean"], np.tile(np.arange(6.0), (3, 1)))
    bulk.write_h5ad(tmp_path / "bulk.h5ad")


def test_object_is_left_as_it_was(predicted, frozen) -> None:
    before = frozen(predicted)
    stp.tl.pseudobulk(predicted, scale="linear", genes=["G1", "Z"])
    assert frozen(predicted) == before


BAD = {
    "key": (None, {"key": "none"}, KeyError, "stp.tl.predict"),
    "by": (None, {"by": "slide"}, ValueError, "'slide'"),
    "scale": (None, {"scale": "log2"}, ValueError, "'log2'"),
    "gene": (None, {"genes": ["XYZ"]}, KeyError, "XYZ"),
    "layer": (None, {"layer": "no"}, KeyError, r"layers\['no'\]"),
    "unit": (lambda a: a.uns["stpredict"].pop("normalize"), {"scale": "linear"}, ValueError, "scale='log'"),
    "patient": (lambda a: a.obs.drop(columns="patient", inplace=True), {}, KeyError, "patient"),
    "nothing": (lambda a: a.obsm["predicted"].__setitem__(slice(None), np.nan), {}, ValueError, "found none"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(predicted, case: str) -> None:
    change, options, error, message = BAD[case]
    if change:
        change(predicted)
    with pytest.raises(error, match=message):
        stp.tl.pseudobulk(predicted, **options)


@pytest.fixture(scope="module")
def counted() -> ad.AnnData:
    """Two sections whose counts tell of different shares, with features that know the shares of every spot."""
    rng = np.random.default_rng(0)
    share = rng.dirichlet([20, 10, 5, 65], 80)
    depth = rng.integers(2000, 20_000, 80)
    obs = pd.DataFrame({"sample": np.repeat(["a", "b"], 40), "patient": np.repeat(["p", "q"], 40)})
    adata = ad.AnnData(rng.poisson(share * depth[:, None]).astype(np.float32), obs=obs.rename(index=str))
    adata.var_names = list("ABCD")
    adata.obsm["X_toy"] = np.log(share).astype(np.float32)
    return adata


@pytest.mark.filterwarnings("ignore:nobody wrote down")
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_rates_are_put_on_the_scale_of_x(counted, scale) -> None:
    adata = counted.copy()
    stp.pp.normalize(adata, method="log1p")
    model = stp.tl.fit(adata, "ridge", target=stp.targets.Counts(), features="toy", baselines=False)
    stp.tl.predict(adata, model)
    assert adata.obsm["predicted"].max() < 1
    bulk = stp.tl.pseudobulk(adata, by="sample", scale=scale)
    np.testing.assert_allclose(bulk.X, bulk.layers["measured"], atol=0.1)
    if scale == "linear":
        rates = pd.DataFrame(adata.obsm["predicted"]).groupby(adata.obs["sample"].to_numpy()).mean()
        np.testing.assert_allclose(bulk.X, np.log1p(1e4 * rates), atol=0.02)


def test_residuals_have_no_linear_scale(counted) -> None:
    adata = counted.copy()
    stp.pp.normalize(adata)
    adata.obsm["predicted"] = pd.DataFrame(adata.X, adata.obs_names, adata.var_names)
    assert (np.abs(stp.tl.pseudobulk(adata, by="sample").X) < 0.2 * adata.X.std(axis=0)).all()  # no level
    with pytest.raises(ValueError, match="Pearson residuals, which are relative to their section"):
        stp.tl.pseudobulk(adata, scale="linear")


def test_all_counts_of_a_slide_together(predicted) -> None:
    rng = np.random.default_rng(2)
    counts = rng.poisson(3, predicted.shape).astype(np.float32)
    counts[:3] *= 20  # deep spots weigh more
    predicted.layers["counts"] = sparse.csr_matrix(counts)
    predicted.uns["stpredict"]["normalize"] = {"method": "pearson_residuals", "theta": 100.0}
    del predicted.obs["depth"]
    for depth in (None, 2 * counts.sum(axis=1)):  # of all genes that were measured, where that is on record
        if depth is not None:
            predicted.obs["depth"] = depth
        total = counts.sum(axis=1) if depth is None else depth
        found = stp.tl.pseudobulk(predicted, by="sample", measured="counts").layers["measured"]
        for i in (0, 3):
            rows = slice(12 * i, 12 * i + 12)
            expected = np.log1p(1e4 * counts[rows, :5].sum(axis=0) / total[rows].sum())
            np.testing.assert_allclose(found[i, :5], expected, rtol=1e-6)
        assert np.isnan(found[:, 5]).all()
    people = stp.tl.pseudobulk(predicted, measured="counts")
    np.testing.assert_allclose(people.layers["measured"][0, :5], found[:2, :5].mean(axis=0))
    del predicted.layers["counts"]
    with pytest.raises(KeyError, match=r"layers\['counts'\] for measured='counts'"):
        stp.tl.pseudobulk(predicted, measured="counts")
    with pytest.raises(ValueError, match="'sum'"):
        stp.tl.pseudobulk(predicted, measured="sum")


def test_tiles_that_a_model_of_spots_predicted_are_averaged_by_its_logarithm() -> None:
    """Tiles of slides were never normalized: what the prediction says of its unit is what counts."""
    obs = pd.DataFrame({"sample": ["a", "a", "b"], "patient": ["p", "p", "q"]}, index=["1", "2", "3"])
    tiles = ad.AnnData(obs=obs)
    tiles.obsm["predicted"] = pd.DataFrame({"G": [1.0, 3.0, 2.0]}, index=obs.index)
    for unit, base in (({"method": "log2p1"}, 2.0), ({"method": "log1p", "target_sum": 1e4}, np.e)):
        tiles.uns["stpredict"] = {"predicted": {"unit": unit}}
        bulk = stp.tl.pseudobulk(tiles, by="sample", scale="linear")
        expected = np.log1p((base**1 + base**3) / 2 - 1) / np.log(base)
        assert bulk.X.ravel().tolist() == pytest.approx([expected, 2.0])
    tiles.uns["stpredict"] = {"predicted": {"unit": {"method": "pearson_residuals", "theta": 100.0}}}
    with pytest.raises(ValueError, match="Pearson residuals, which are relative"):
        stp.tl.pseudobulk(tiles, scale="linear")
