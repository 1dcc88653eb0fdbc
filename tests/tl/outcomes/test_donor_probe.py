"""A label of patients from the mean of their features."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp


def patients(n: int = 20, n_obs: int = 6, effect: float = 3.0) -> ad.AnnData:
    """Half of the patients are mutated; one slot shows it, one does not, one shows who is who."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(n), n_obs)
    mutated = rng.permutation(n)[person] < n // 2
    obs = pd.DataFrame(
        {
            "patient": [f"p{i}" for i in person],
            "sample": [f"s{i}" for i in person],
            "mutation": np.where(mutated, "yes", "no"),
        },
        index=[f"o{i}" for i in range(len(person))],
    )
    adata = ad.AnnData(rng.normal(size=(len(person), 4)).astype(np.float32), obs=obs)
    noise = rng.normal(size=(len(person), 3))
    adata.obsm["X_good"], adata.obsm["X_noise"] = noise + effect * mutated[:, None] * np.array([1, 0, 0]), noise
    adata.obsm["X_people"] = 0.01 * noise + 10 * rng.normal(size=(n, 3))[person]
    adata.uns["stpredict"] = {key: {"encoder": key} for key in ("X_good", "X_noise", "X_people")}
    return adata


def test_a_label_that_shows_is_found_and_people_are_not_learned_by_heart() -> None:
    """Features that name the patient would give every label away if observations of one were on both sides."""
    table = stp.tl.donor_probe(patients(), {"noise": "noise", "good": "X_good", "people": "X_people"}, "mutation", 2)
    found = table.set_index("features")
    assert found.loc["good", "auroc"] == 1
    assert 0.15 < found.loc["people", "auroc"] < 0.85
    assert found.loc["good", "delta"] == 1 - found.loc["noise", "auroc"]
    assert 0 < found.loc["good", "delta_low"] <= found.loc["good", "delta"] <= found.loc["good", "delta_high"]
    assert np.isnan(found.loc["noise", "delta"])
    assert found["n_patients"].tolist() == [20] * 3
    assert found["n_positive"].tolist() == [10] * 3
    assert found["leaky"].tolist() == [False] * 3


def test_patients_without_label_or_features_are_left_out() -> None:
    adata = patients()
    adata.obs.loc[adata.obs["patient"] == "p0", "mutation"] = np.nan
    adata.obsm["X_good"][(adata.obs["patient"] == "p1").to_numpy()] = np.nan
    adata.obsm["X_good"][(adata.obs["patient"] == "p2").to_numpy().nonzero()[0][:4]] = (
        np.nan
    )  # others of this one are there
    assert stp.tl.donor_probe(adata, {"good": "X_good"}, "mutation", 2)["n_patients"].tolist() == [18]


def test_models_are_read_in_their_own_fold(toy: ad.AnnData) -> None:
    toy.obs["patient"] = toy.obs["sample"].astype(str).str.replace("s", "p").to_numpy()
    toy.obs["mutation"] = toy.obs["patient"].isin(["p0", "p2", "p4"]).map({True: "m", False: "w"}).astype(str)
    folds = stp.cohorts.grouped_k_fold(toy, 3, seed=2)
    quick: dict[str, Any] = {
        "hyperparameters": {"n_embedding": 4, "depth": 1},
        "training": {"max_epochs": 1, "patience": 0},
    }
    models = [stp.tl.align(toy, "X_toy", train=fold.train, **quick) for fold in folds]
    table = stp.tl.donor_probe(
        toy, {"before": "X_toy", "after": models, "one": models[0]}, "mutation", folds, n_boot=50
    )
    assert table["leaky"].tolist() == [False, False, True]
    assert table["n_patients"].tolist() == [6] * 3


def test_what_is_no_label_of_patients_is_refused() -> None:
    adata = patients(8)
    adata.obs["tissue"] = np.where(np.arange(48) % 2, "a", "b")
    adata.obs["site"] = adata.obs["patient"].astype(str)
    with pytest.raises(ValueError, match="one class .* for each patient"):
        stp.tl.donor_probe(adata, {"a": "X_good"}, "tissue")
    with pytest.raises(ValueError, match="two classes with two patients each"):
        stp.tl.donor_probe(adata, {"a": "X_good"}, "site")
    with pytest.raises(KeyError, match="expected obs"):
        stp.tl.donor_probe(adata, {"a": "X_good"}, "kras")
    with pytest.raises(ValueError, match="expected features to probe"):
        stp.tl.donor_probe(adata, {}, "mutation")
    rows = np.arange(48)
    with pytest.raises(ValueError, match="one side of the split only"):
        stp.tl.donor_probe(adata, {"a": "X_good"}, "mutation", [stp.cohorts.Fold("x", rows % 2 == 0, rows % 2 == 1)])
