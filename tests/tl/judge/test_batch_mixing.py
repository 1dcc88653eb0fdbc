"""How far patients and their sections lie apart, by slot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stpredict as stp


@pytest.fixture
def cohort() -> Any:
    """Three patients with two sections of 49 spots each, and features that know neither, either, or both."""
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng(0)
    section = np.repeat(np.arange(6), 49)
    obs = pd.DataFrame(
        {"patient": [f"P{i // 2}" for i in section], "sample": [f"P{i // 2}_S{i % 2}" for i in section]},
        index=[f"o{i}" for i in range(len(section))],
    )
    adata = ad.AnnData(obs=obs)
    noise, number = rng.normal(size=(len(section), 5)), section[:, None]
    adata.obsm["mixed"], adata.obsm["people"] = noise, noise + 30 * (number // 2)
    adata.obsm["sections"] = noise + 30 * (number % 2)
    return adata


def test_patients_and_sections_are_told_apart(cohort: Any) -> None:
    table = stp.tl.batch_mixing(cohort, ["mixed", "people", "sections"], n_neighbors=15, n_boot=100)
    found = table.set_index(["key", "by"])
    assert abs(found.loc[("mixed", "patient"), "mixing"] - 1) < 0.15
    assert abs(found.loc[("mixed", "section"), "silhouette"]) < 0.1
    assert found.loc[("people", "patient"), "mixing"] == 0
    assert found.loc[("people", "patient"), "variance"] > 0.9
    assert abs(found.loc[("people", "section"), "mixing"] - 1) < 0.15  # within a patient nothing tells them apart
    assert found.loc[("sections", "section"), "mixing"] == 0
    assert found.loc[("sections", "section"), "silhouette"] > 0.8
    assert abs(found.loc[("sections", "patient"), "mixing"] - 1) < 0.15
    assert abs(found.loc[("mixed", "patient"), "variance"] - found.loc[("mixed", "patient"), "variance_chance"]) < 0.02
    assert found["n_batches"].tolist() == [3, 6] * 3


def test_reads_predictions_out_of_fold(cohort: Any) -> None:
    """Genes that a fold did not select, and rows that nobody predicted, are left out."""
    values = np.random.default_rng(0).normal(size=(cohort.n_obs, 4))
    values[:20] = np.nan
    values[30:60, 1] = np.nan
    cohort.obsm["predicted_x"] = values
    table = stp.tl.batch_mixing(cohort, "predicted_x", n_boot=50)
    cohort.obsm["complete"] = values[:, [0, 2, 3]]
    again = stp.tl.batch_mixing(cohort, "complete", n_boot=50)
    np.testing.assert_array_equal(table["mixing"], again["mixing"])
    assert table["n_obs"].tolist() == [cohort.n_obs - 20] * 2


def test_a_sample_is_as_large_as_asked_for(cohort: Any) -> None:
    table = stp.tl.batch_mixing(cohort, "people", n_obs=60, n_boot=50)
    assert table["n_obs"].tolist() == [60, 60]
    assert table["n_batches"].tolist() == [3, 6]
    one = stp.tl.batch_mixing(cohort, "people", rows=(cohort.obs["sample"] == "P0_S1").to_numpy(), n_boot=50)
    assert one["mixing"].isna().all()
    assert one["n_obs"].tolist() == [49, 0]


def test_missing_slots_are_named(cohort: Any) -> None:
    with pytest.raises(KeyError, match=r"expected obsm\['X_uni'\]"):
        stp.tl.batch_mixing(cohort, "X_uni")
