"""Whether features know tissue or patient."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp


def sections(n: int = 60, n_patients: int = 4) -> ad.AnnData:
    """Two tissues in every patient; slots know the tissue, the patient, both, or neither."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(n_patients), n)
    tissue = rng.integers(0, 2, len(person))
    obs = pd.DataFrame(
        {
            "patient": [f"p{i}" for i in person],
            "sample": [f"s{i}" for i in person],
            "label": np.where(tissue, "tumor", "fat"),
        },
        index=[f"o{i}" for i in range(len(person))],
    )
    adata = ad.AnnData(obs=obs)
    noise = rng.normal(size=(len(person), 6))
    who = 6 * rng.normal(size=(n_patients, 6))[person]
    what = 3.0 * tissue[:, None] * np.array([1, 0, 0, 0, 0, 0])
    adata.obsm["neither"], adata.obsm["tissue"], adata.obsm["patient"] = noise, noise + what, noise + who
    adata.obsm["both"] = noise + what / 2 + who * np.array([0, 1, 1, 1, 1, 1])
    return adata


def test_tissue_patient_both_and_neither() -> None:
    table = stp.tl.robustness(sections(), ["neither", "tissue", "patient", "both"], n_neighbors=15)
    found = table.set_index("key")
    assert abs(found.loc["neither", "robustness_index"] - found.loc["neither", "robustness_chance"]) < 0.05
    assert found.loc["tissue", "robustness_index"] > 0.9
    assert found.loc["patient", "robustness_index"] < 0.05
    assert found.loc["tissue", "accuracy"] > 0.85
    assert abs(found.loc["tissue", "drop"]) < 0.05
    assert abs(found.loc["neither", "accuracy"] - 0.5) < 0.1
    # Who is who is all that a biased probe can learn, and it is of no use.
    assert found.loc["patient", "accuracy_in_bias"] > 0.95
    assert abs(found.loc["patient", "accuracy_biased"] - 0.5) < 0.05
    assert found.loc["both", "drop"] > 0.1
    assert found["n_patients_probe"].tolist() == [4] * 4
    assert set(found["labels"]) == {"fat and tumor"}


def test_labels_that_patients_do_not_share_make_no_probe() -> None:
    adata = sections()
    adata.obs.loc[adata.obs["patient"] != "p0", "label"] = "tumor"
    table = stp.tl.robustness(adata, "both", n_neighbors=15)
    assert table[["accuracy", "drop"]].isna().all(None)
    assert table["n_patients_probe"].tolist() == [0]
    adata.obs["label"] = np.nan
    with pytest.raises(ValueError, match="at least 3 observations with a label"):
        stp.tl.robustness(adata, "both")


def test_the_probe_takes_the_labels_that_patients_share() -> None:
    adata = sections()
    rare = np.arange(adata.n_obs) % 12 == 0
    adata.obs["label"] = np.where(rare, "rare", adata.obs["label"].astype(str))
    table = stp.tl.robustness(adata, "tissue", n_obs=200)
    assert table["labels"].tolist() == ["fat and tumor"]
    assert table["n_obs"].tolist() == [200]
    with pytest.raises(KeyError, match="expected obs"):
        stp.tl.robustness(adata, "tissue", "region")
