import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record
from stpredict.tl.judge._conformal import conformal, weighted_quantile


def make(n_patients=6, n=60, seed=0, spread=0.0):
    """Gaussian errors with a spread per gene, and per patient where `spread` is above zero."""
    rng = np.random.default_rng(seed)
    patient = np.repeat([f"p{i}" for i in range(n_patients)], n)
    error = rng.normal(size=(len(patient), 3)) * [1.0, 2.0, 0.5]
    error *= np.exp(spread * rng.normal(size=n_patients))[np.repeat(np.arange(n_patients), n)][:, None]
    predicted = rng.normal(size=error.shape)
    adata = ad.AnnData((predicted + error).astype(np.float32), var=pd.DataFrame(index=list("ABC")))
    adata.obs["patient"] = patient
    adata.obs["calibrate"] = np.isin(patient, ["p0", "p1", "p2"])
    adata.obsm["predicted"] = pd.DataFrame(predicted.astype(np.float32), adata.obs_names, list("ABC"))
    adata.obs["predicted_leaky"] = False
    return adata


@pytest.fixture
def adata():
    return make()


def test_quantile_matches_numpy_with_equal_weights():
    scores = np.random.default_rng(0).random((37, 5))
    for level in (0.1, 0.5, 0.9, 1.0):
        expected = np.quantile(scores, level, axis=0, method="inverted_cdf")
        np.testing.assert_array_equal(weighted_quantile(scores, np.full(37, 1 / 37), level), expected)


def test_quantile_matches_numpy_with_weights():
    rng = np.random.default_rng(1)
    scores, weights = rng.random((37, 5)), rng.random(37)
    weights /= weights.sum()
    expected = np.quantile(scores, 0.8, axis=0, method="inverted_cdf", weights=weights[:, None] * np.ones(5))
    np.testing.assert_array_equal(weighted_quantile(scores, weights, 0.8), expected)


def test_half_width_is_the_corrected_quantile(adata):
    assert conformal(adata, calibration="calibrate", level=0.8) is None
    held = adata.obs["calibrate"].to_numpy()
    lower, upper = prediction_frame(adata, "predicted_lower"), prediction_frame(adata, "predicted_upper")
    assert list(lower.columns) == list("ABC")
    assert lower[held].isna().all(axis=None)
    assert upper[~held].notna().all(axis=None)
    predicted = adata.obsm["predicted"].to_numpy()
    scores = np.sort(np.abs(adata.X - predicted)[held], axis=0)
    rank = int(np.ceil(181 * 0.8))
    half = np.broadcast_to(scores[rank - 1], (180, 3))
    np.testing.assert_allclose((upper - prediction_frame(adata, "predicted"))[~held], half, rtol=1e-5)
    np.testing.assert_allclose((prediction_frame(adata, "predicted") - lower)[~held], half, rtol=1e-5)


def test_coverage_is_reached_and_recorded(adata):
    conformal(adata, calibration="calibrate", level=0.9)
    record = read_record(adata, "predicted_conformal")
    assert record["patients"] == ["p3", "p4", "p5"]
    assert record["calibration_patients"] == ["p0", "p1", "p2"]
    assert record["n_calibration"] == 180
    assert record["leaky"] is False
    inside = (prediction_frame(adata, "predicted_lower") <= adata.X) & (
        prediction_frame(adata, "predicted_upper") >= adata.X
    )
    np.testing.assert_allclose(record["coverage"], inside.groupby(adata.obs["patient"]).mean().mean(axis=1)[3:])
    assert np.mean(record["coverage"]) == pytest.approx(0.9, abs=0.05)
    assert record["width"][0] == pytest.approx(2 * 1.645 * np.mean([1, 2, 0.5]), rel=0.15)


def test_patients_have_equal_weight():
    adata = make(n_patients=3, n=400)
    adata.obsm["predicted"].iloc[:] = 0
    adata.X[:400], adata.X[400:] = 1, 3
    kept = np.r_[0:400, 400:420, 800:810]
    adata = adata[kept].copy()
    held = (adata.obs["patient"] != "p2").to_numpy()
    conformal(adata, calibration=held, level=0.6)
    # 95 % of the calibration spots err by 1, but half of its patients err by 3.
    np.testing.assert_array_equal(adata.obsm["predicted_upper"][~held], 3)


def test_counting_patients_holds_for_new_patients():
    covered = {"patient": [], "observation": []}
    for seed in range(60):
        adata = make(n_patients=11, n=20, seed=seed, spread=1.0)
        held = (adata.obs["patient"] != "p10").to_numpy()
        for by, values in covered.items():
            changed = conformal(adata, calibration=held, level=0.9, by=by, copy=True)
            values += read_record(changed, "predicted_conformal")["coverage"]
    assert np.mean(covered["patient"]) >= 0.88
    assert np.mean(covered["observation"]) < np.mean(covered["patient"])


def test_predicted_std_scales_the_interval(adata):
    std = np.random.default_rng(1).uniform(0.5, 2, adata.shape)
    adata.obsm["predicted_std"] = pd.DataFrame(std, adata.obs_names, list("ABC"))[["C", "A", "B"]]
    held = adata.obs["calibrate"].to_numpy()
    conformal(adata, calibration=held)
    width = (prediction_frame(adata, "predicted_upper") - prediction_frame(adata, "predicted_lower"))[~held] / std[
        ~held
    ]
    np.testing.assert_allclose(width, np.broadcast_to(width.iloc[0], width.shape), rtol=1e-4)
    assert read_record(adata, "predicted_conformal")["use_std"] is True
    conformal(adata, calibration=held, use_std=False)
    width = (prediction_frame(adata, "predicted_upper") - prediction_frame(adata, "predicted_lower"))[~held]
    np.testing.assert_allclose(width, np.broadcast_to(width.iloc[0], width.shape), rtol=1e-4)
    adata.obsm["predicted_std"].iloc[0, 0] = 0
    with pytest.raises(ValueError, match="use_std=False"):
        conformal(adata, calibration=held)


def test_unmeasured_patients_get_intervals_without_coverage(adata):
    adata.X[(adata.obs["patient"] == "p4").to_numpy()] = np.nan
    conformal(adata, calibration="calibrate", key_added="interval")
    assert prediction_frame(adata, "interval_lower")[~adata.obs["calibrate"]].notna().all(axis=None)
    assert read_record(adata, "interval_conformal")["patients"] == ["p3", "p5"]


def test_copy_layer_and_sparse(adata):
    before = adata.copy()
    changed = conformal(adata, calibration="calibrate", copy=True)
    assert set(adata.obsm) == set(before.obsm)
    assert dict(adata.uns) == {}
    adata.layers["target"] = sparse.csr_matrix(adata.X)
    adata.X = None
    conformal(adata, calibration="calibrate", layer="target")
    pd.testing.assert_frame_equal(
        prediction_frame(adata, "predicted_lower"), prediction_frame(changed, "predicted_lower")
    )


def test_survives_h5ad(adata, tmp_path):
    conformal(adata, calibration="calibrate")
    adata.write_h5ad(tmp_path / "intervals.h5ad")
    again = ad.read_h5ad(tmp_path / "intervals.h5ad")
    pd.testing.assert_frame_equal(
        prediction_frame(again, "predicted_upper"), prediction_frame(adata, "predicted_upper")
    )
    assert read_record(again, "predicted_conformal") == read_record(adata, "predicted_conformal")


def test_leaks_are_refused_or_recorded(adata):
    adata.obs["half"] = adata.obs["calibrate"] & (np.arange(360) != 0)
    with pytest.raises(ValueError, match="found p0 on both sides"):
        conformal(adata, calibration="half")
    conformal(adata, calibration="half", allow_leakage=True)
    assert read_record(adata, "predicted_conformal")["leaky"] is True
    adata.obs["predicted_leaky"] = adata.obs["patient"] == "p1"
    with pytest.raises(ValueError, match="60 observations with"):
        conformal(adata, calibration="calibrate")
    conformal(adata, calibration="calibrate", allow_leakage=True)
    assert read_record(adata, "predicted_conformal")["leaky"] is True
    adata.obs["predicted_leaky"] = adata.obs["patient"] == "p5"
    conformal(adata, calibration="calibrate")
    assert read_record(adata, "predicted_conformal")["leaky"] is False
    del adata.obs["predicted_leaky"]
    conformal(adata, calibration="calibrate")
    assert read_record(adata, "predicted_conformal")["leaky"] == "unknown"


def test_errors_leave_the_object_alone(adata):
    before = adata.copy()
    none, every = np.zeros(360, bool), np.ones(360, bool)
    few = (adata.obs["patient"] == "p0").to_numpy()
    for options, error, match in [
        ({"calibration": none}, ValueError, "at least one observation in calibration"),
        ({"calibration": every}, ValueError, "outside `calibration`"),
        ({"calibration": None}, ValueError, "expected `calibration`"),
        ({"calibration": "nothing"}, KeyError, "nothing"),
        ({"calibration": "calibrate", "level": 1.0}, ValueError, "level"),
        ({"calibration": "calibrate", "by": "spot"}, ValueError, "by"),
        ({"calibration": "calibrate", "key": "other"}, KeyError, "tl.predict"),
        ({"calibration": "calibrate", "patient_key": "donor"}, KeyError, "donor"),
        ({"calibration": "calibrate", "by": "patient"}, ValueError, "at least 9 calibration patients"),
        ({"calibration": few, "level": 0.99}, ValueError, "at least 99 calibration observations"),
        ({"calibration": "calibrate", "use_std": True}, KeyError, "predicted_std"),
    ]:
        with pytest.raises(error, match=match):
            conformal(adata, **options)
    adata.X[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite measured expression"):
        conformal(adata, calibration="calibrate")
    assert set(adata.obsm) == set(before.obsm)
    assert dict(adata.uns) == {}


def test_smallest_calibration_that_allows_a_level():
    adata = make(n_patients=10, n=1)
    held = (adata.obs["patient"] != "p9").to_numpy()
    conformal(adata, calibration=held, level=0.9, by="patient")
    half = (prediction_frame(adata, "predicted_upper") - prediction_frame(adata, "predicted")).to_numpy()[~held][0]
    np.testing.assert_allclose(half, np.abs(adata.X - adata.obsm["predicted"])[held].max(axis=0), rtol=1e-5)
