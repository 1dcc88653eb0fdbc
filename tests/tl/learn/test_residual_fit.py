"""What Pearson residuals give up, and what they do not, on genes that follow what is seen."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

import stpredict as stp

METRICS = ["pearson_residual", "deviance_explained"]


def cohort(seed: int) -> AnnData:
    """Three patients with one section each, 10,000 counts a spot; the features are the composition of the spot, blurred."""
    adata = stp.datasets.synthetic_cohort(3, 1, 40, seed, n_spots=150, counts_per_spot=10_000, microns_per_pixel=8.0)
    shares = adata.obs[["tumor", "stroma", "immune", "fat"]].to_numpy(dtype=np.float64)
    adata.obsm["X_seen"] = (shares + np.random.default_rng(seed).normal(0, 0.1, shares.shape)).astype(np.float32)
    adata.uns["stpredict"]["X_seen"] = {"encoder": "seen"}
    return adata[:, adata.var["signal"]].copy()


def scores(adata: AnnData, model: str, method: str, n_folds: int = 3) -> np.ndarray:
    """Means over genes and the first folds."""
    stp.pp.normalize(adata, layer="counts", method=method)
    folds = stp.cohorts.leave_one_patient_out(adata)[:n_folds]
    table = stp.tl.cross_validate(
        adata, [model], folds, metrics=METRICS, ceiling=False, baselines=False, progress=False
    )
    return table[METRICS].mean().to_numpy()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_ridge_on_residuals_explains_what_one_on_log1p_values_does(seed: int) -> None:
    adata = cohort(seed)
    log1p, residuals = (scores(adata, "ridge", method) for method in ("log1p", "pearson_residuals"))
    assert log1p[1] > 0.5
    assert residuals[0] > log1p[0]
    # A line through the residuals, which falls below a rate of 0 and is too flat where a gene is high, keeps 0.95.
    assert residuals[1] > 0.97 * log1p[1]


def test_so_does_a_network() -> None:
    adata = cohort(0)
    log1p, residuals = (scores(adata, "mlp", method, 1) for method in ("log1p", "pearson_residuals"))
    assert residuals[1] > 0.97 * log1p[1]


@pytest.mark.parametrize("model", ["ridge", "mlp"])
def test_no_residual_is_below_that_of_a_rate_of_zero(model: str) -> None:
    adata = cohort(0)
    stp.pp.normalize(adata, layer="counts")
    fitted = stp.tl.fit(adata, model, hyperparameters={"alpha": 1e-3} if model == "ridge" else {"dropout": 0.0})
    far = adata.copy()
    far.obsm["X_seen"] = (4 * (adata.obsm["X_seen"] - 0.25)).astype(np.float32)
    far.obs["patient"] = far.obs["patient"].astype(str) + " of others"
    far.uns["stpredict"]["X_seen"] = {"encoder": "seen"}
    stp.tl.predict(far, fitted)
    rates = stp.get.predicted(far, scale="rate").X
    lowest = fitted.target.lowest()
    assert np.isfinite(lowest).all()
    assert (np.asarray(far.obsm["predicted"]) >= lowest - 1e-4).all()
    assert (rates >= 0).all()
