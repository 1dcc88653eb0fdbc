"""Samples on their way from a network into objects, stores, tables of scores and bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp
from stpredict import metrics as m

GENES = 6
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def fitted() -> Any:
    """Fit a small network once, on the first two patients."""
    found: list[Any] = []

    def fit(adata: ad.AnnData) -> Any:
        if not found:
            train = (adata.obs["patient"] != "p2").to_numpy()
            options: dict[str, Any] = {"hyperparameters": "small", "training": {"max_epochs": 30, "patience": 0}}
            options["features"] = {"slot": "X_toy", "scaling": "global"}
            found.append(stp.tl.fit(adata, "stem", train, **options))
        return found[0]

    return fit


@pytest.fixture
def drawn(toy: ad.AnnData, fitted: Any) -> ad.AnnData:
    """Predicted with 8 samples."""
    stp.tl.predict(toy, fitted(toy), n_samples=8, seed=1)
    return toy


def test_slots_of_samples(drawn: ad.AnnData) -> None:
    samples, quantiles = drawn.obsm["predicted_samples"], drawn.obsm["predicted_quantiles"]
    assert (samples.shape, samples.dtype) == ((72, 8, GENES), np.float32)
    assert (quantiles.shape, quantiles.dtype) == ((72, 3, GENES), np.float32)
    np.testing.assert_allclose(drawn.obsm["predicted"], samples.mean(axis=1), **CLOSE)
    np.testing.assert_allclose(drawn.obsm["predicted_std"], samples.std(axis=1, ddof=1), **CLOSE)
    np.testing.assert_allclose(quantiles, m.sample_quantiles(samples, [0.05, 0.5, 0.95]), **CLOSE)
    np.testing.assert_array_equal(drawn.uns["stpredict"]["predicted"]["quantiles"], [0.05, 0.5, 0.95])
    np.testing.assert_array_equal(stp.get.samples(drawn), samples)
    np.testing.assert_array_equal(stp.get.samples(drawn, genes=["G4", "G0"]), samples[:, :, [4, 0]])


def test_samples_belong_to_names_and_not_to_places(drawn: ad.AnnData, fitted: Any) -> None:
    order = np.random.default_rng(0).permutation(72)[:30]
    some = drawn[order].copy()
    stp.tl.predict(some, fitted(drawn), n_samples=8, seed=1, batch_size=7)
    np.testing.assert_allclose(some.obsm["predicted_samples"], drawn.obsm["predicted_samples"][order], **CLOSE)
    some.obs_names = [f"other{i}" for i in range(30)]
    stp.tl.predict(some, fitted(drawn), n_samples=8, seed=1)
    assert np.abs(some.obsm["predicted_samples"] - drawn.obsm["predicted_samples"][order]).mean() > 0.05


def test_a_prediction_without_a_number_of_samples_leaves_none(drawn: ad.AnnData, fitted: Any) -> None:
    stp.tl.predict(drawn, fitted(drawn))
    first = drawn.obsm["predicted"].copy()
    assert {"predicted_samples", "predicted_quantiles"} & set(drawn.obsm) == set()
    assert (drawn.obsm["predicted_std"] > 0).all()
    stp.tl.predict(drawn, fitted(drawn))
    np.testing.assert_array_equal(drawn.obsm["predicted"], first)
    with pytest.raises(KeyError, match=r"expected samples of obsm\['predicted'\]; found none; call stp.tl.predict"):
        stp.get.samples(drawn)


def test_a_store_holds_the_same_samples(drawn: ad.AnnData, fitted: Any, tmp_path: Path) -> None:
    wanted = drawn.obsm["predicted_samples"]
    stp.tl.predict(drawn, fitted(drawn), n_samples=8, seed=1, store=tmp_path / "s.zarr", quantiles=[0.5])
    assert "predicted_samples" not in drawn.obsm
    assert drawn.obsm["predicted_quantiles"].shape == (72, 1, GENES)
    np.testing.assert_allclose(stp.get.samples(drawn), wanted, **CLOSE)
    order = np.array([70, 3, 12])
    np.testing.assert_allclose(stp.get.samples(drawn[order].copy(), genes=["G2"]), wanted[order][:, :, [2]], **CLOSE)
    strange = drawn[order].copy()
    strange.obs_names = ["a", "b", "c"]
    with pytest.raises(ValueError, match="found 3 observations without any in"):
        stp.get.samples(strange)


def test_objects_with_samples_can_be_written(drawn: ad.AnnData, tmp_path: Path) -> None:
    drawn.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(stp.get.samples(again), stp.get.samples(drawn))
    scores = [stp.tl.evaluate(each, metrics=["crps", "coverage_90"]) for each in (drawn, again)]
    np.testing.assert_array_equal(*(table[["crps", "coverage_90"]].to_numpy() for table in scores))


@pytest.mark.parametrize("bad", [[0.0], [0.5, 1.2], [[0.5]]])
def test_levels_that_are_none_are_refused(drawn: ad.AnnData, fitted: Any, frozen: Callable[..., Any], bad: Any) -> None:
    before = frozen(drawn)
    with pytest.raises(ValueError, match="expected levels between 0 and 1"):
        stp.tl.predict(drawn, fitted(drawn), n_samples=2, quantiles=bad)
    assert frozen(drawn) == before


def test_joined_objects_keep_the_samples_of_the_genes_they_share(drawn: ad.AnnData) -> None:
    first, second = (drawn[(drawn.obs["patient"] == p).to_numpy()].copy() for p in ("p0", "p1"))
    joined = stp.concat({"a": first, "b": second})
    np.testing.assert_array_equal(stp.get.samples(joined), drawn.obsm["predicted_samples"][:48])
    np.testing.assert_array_equal(joined.obsm["predicted_quantiles"], drawn.obsm["predicted_quantiles"][:48])
    second.obsm["predicted_samples"] = second.obsm["predicted_samples"][:, :3]
    assert "predicted_samples" not in stp.concat({"a": first, "b": second}).obsm


def test_samples_of_other_genes_are_refused(drawn: ad.AnnData) -> None:
    drawn.obsm["predicted_samples"] = drawn.obsm["predicted_samples"][:, :, :4]
    with pytest.raises(
        ValueError, match=r"found an array of shape \(72, 8, 4\) in obsm\['predicted_samples'\] for 6 genes"
    ):
        stp.tl.evaluate(drawn)


# Scores


def test_scores_of_distributions_are_those_of_the_sections(drawn: ad.AnnData) -> None:
    names = ("crps", "coverage_90", "rvd_samples", "rvd_means", "energy_score", "correlation_distance")
    scores = stp.tl.evaluate(drawn, ceiling=False)
    assert set(names) <= set(scores.columns)
    rows = np.flatnonzero(drawn.obs["sample"] == "s4")
    truth, samples, mean = drawn.X[rows], drawn.obsm["predicted_samples"][rows], drawn.obsm["predicted"][rows]
    truth = truth.toarray() if hasattr(truth, "toarray") else truth
    own = scores[(scores["sample"] == "s4") & (scores["model"] == "stem")].set_index("gene").loc[list(drawn.var_names)]
    low, high = m.sample_quantiles(samples, [0.05, 0.95]).transpose(1, 0, 2)
    expected = {
        "crps": m.crps(truth, samples),
        "coverage_90": m.interval_coverage(truth, low, high),
        "rvd_samples": m.relative_variance_distance(truth, samples),
        "rvd_means": m.relative_variance_distance(truth, mean),
        "energy_score": np.full(GENES, m.energy_score(truth, samples).mean()),
        "correlation_distance": m.correlation_distance(truth, samples),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(own[name], values, rtol=1e-5, err_msg=name)
    ridge = (
        scores[(scores["sample"] == "s4") & (scores["model"] == "ridge")].set_index("gene").loc[list(drawn.var_names)]
    )
    point = drawn.obsm["predicted_baseline_ridge"][rows]
    np.testing.assert_allclose(ridge["crps"], np.abs(truth - point).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(ridge["correlation_distance"], m.correlation_distance(truth, point), rtol=1e-5)
    assert ridge["coverage_90"].isna().all()
    assert ridge["rvd_samples"].isna().all()
    summary = stp.tl.summarize(scores, n_boot=10).set_index("model")
    assert np.isfinite(summary.loc["stem", list(names)].astype(float)).all()


def test_without_samples_their_scores_are_left_out(drawn: ad.AnnData, fitted: Any) -> None:
    stp.tl.predict(drawn, fitted(drawn))
    assert not {"crps", "energy_score"} & set(stp.tl.evaluate(drawn, ceiling=False).columns)
    with pytest.raises(ValueError, match="expected samples for the metrics crps; found predictions without any"):
        stp.tl.evaluate(drawn, metrics=["crps"])


def test_cross_validation_scores_the_samples_of_the_folds(toy: ad.AnnData) -> None:
    spec = {"model": "stem", "hyperparameters": "small", "training": {"max_epochs": 2, "patience": 0}}
    scores = stp.tl.cross_validate(
        toy,
        {"diffusion": spec, "ridge": "ridge"},
        n_samples=4,
        metrics=["pearson", "crps"],
        ceiling=False,
        baselines=False,
    )
    samples = toy.obsm["predicted_diffusion_samples"]
    assert samples.shape == (72, 4, GENES)
    np.testing.assert_allclose(samples.mean(axis=1), toy.obsm["predicted_diffusion"], **CLOSE)
    assert np.isfinite(scores["crps"]).all()
    assert "predicted_ridge_samples" not in toy.obsm


@pytest.mark.parametrize("options", [{"n_samples": -1}, {"n_samples": 1.5}, {"metrics": ["crps"]}])
def test_cross_validation_without_samples_is_refused_before_any_work(
    toy: ad.AnnData, frozen: Callable[..., Any], options: dict[str, Any]
) -> None:
    before = frozen(toy)
    with pytest.raises(ValueError, match="expected (n_samples to be|samples for the metrics crps; found n_samples=0)"):
        stp.tl.cross_validate(toy, "stem", **options)
    assert frozen(toy) == before


# Bounds


def skewed(n: int = 600, seed: int = 0) -> ad.AnnData:
    """Three patients whose values scatter to one side, by an amount that is known; samples that scatter half as much."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.2, 3, (n, 1, 2))
    values = size * rng.exponential(size=(n, 21, 2))
    obs = {"patient": np.repeat(["p0", "p1", "p2"], n // 3), "sample": np.repeat(["s0", "s1", "s2"], n // 3)}
    adata = ad.AnnData(values[:, 0].astype(np.float32), obs=obs)
    adata.var_names = ["a", "b"]
    samples = 0.5 * values[:, 1:]
    adata.obsm["predicted"] = adata.to_df() * 0 + samples.mean(axis=1)
    adata.obsm["predicted_samples"] = samples.astype(np.float32)
    adata.obs["predicted_leaky"] = False
    return adata


def test_calibrated_quantiles_hold_what_they_say_and_stay_skewed() -> None:
    adata = skewed()
    raw = m.sample_quantiles(adata.obsm["predicted_samples"], [0.05, 0.95]).transpose(1, 0, 2)
    assert m.interval_coverage(adata.X, *raw).max() < 0.8
    held = (adata.obs["patient"] == "p0").to_numpy()
    stp.tl.conformal(adata, calibration=held, use_quantiles=True)
    record = adata.uns["stpredict"]["predicted_conformal"]
    assert record["use_quantiles"]
    assert list(record["patients"]) == ["p1", "p2"]
    np.testing.assert_allclose(record["coverage"], 0.9, atol=0.04)
    lower, upper = (adata.obsm[f"predicted_{side}"][~held] for side in ("lower", "upper"))
    widened = upper - raw[1][~held]
    np.testing.assert_allclose(widened, np.broadcast_to(widened[:1], widened.shape), atol=1e-5)
    np.testing.assert_allclose(raw[0][~held] - lower, widened, atol=1e-5)
    assert np.isnan(adata.obsm["predicted_lower"][held]).all()
    plain = skewed()
    stp.tl.conformal(plain, calibration=held, use_std=False)
    assert np.mean(record["width"]) < np.mean(plain.uns["stpredict"]["predicted_conformal"]["width"])


def test_quantiles_that_were_written_are_used_where_their_levels_fit(drawn: ad.AnnData) -> None:
    held = (drawn.obs["patient"] == "p2").to_numpy()

    def bounds() -> np.ndarray:
        stp.tl.conformal(drawn, calibration=held, use_quantiles=True)
        return drawn.obsm["predicted_upper"]

    of_samples = bounds()
    del drawn.obsm["predicted_samples"]
    np.testing.assert_allclose(bounds(), of_samples, **CLOSE)
    with pytest.raises(
        KeyError, match=r"expected the quantiles 0\.1, 0\.9 of obsm\['predicted'\].*; found 0\.05, 0\.5, 0\.95"
    ):
        stp.tl.conformal(drawn, calibration=held, level=0.8, use_quantiles=True)
    with pytest.raises(ValueError, match="expected one of use_std and use_quantiles"):
        stp.tl.conformal(drawn, calibration=held, use_quantiles=True, use_std=True)
