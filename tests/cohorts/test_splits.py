from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.cohorts import assert_disjoint, grouped_k_fold, leave_one_patient_out, leave_one_section_out


def cohort(sections: list[int]) -> ad.AnnData:
    """Patients with these numbers of sections, two spots a section, in shuffled order."""
    rows = [(f"P{p}", f"P{p}_{s}") for p, n in enumerate(sections) for s in range(n) for _ in range(2)]
    order = np.random.default_rng(0).permutation(len(rows))
    obs = pd.DataFrame([rows[i] for i in order], columns=["patient", "sample"], index=[f"o{i}" for i in order])
    return ad.AnnData(obs=obs)


def check(folds, adata: ad.AnnData, by: str) -> None:
    tested = np.sum([fold.test for fold in folds], axis=0)
    assert (tested == 1).all()
    for fold in folds:
        assert not (fold.train & fold.test).any()
        assert (fold.train | fold.test).all()
        assert not set(adata.obs[by][fold.train]) & set(adata.obs[by][fold.test])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=7), st.integers(0, 5), st.data())
def test_splits_are_disjoint_and_cover(sections: list[int], seed: int, data) -> None:
    adata = cohort(sections)
    patients = leave_one_patient_out(adata)
    check(patients, adata, "patient")
    assert [fold.name for fold in patients] == sorted({f"P{i}" for i in range(len(sections))})
    assert not any(fold.leaky for fold in patients)
    n_folds = data.draw(st.integers(2, len(sections)))
    folds = grouped_k_fold(adata, n_folds, seed=seed)
    check(folds, adata, "patient")
    assert len(folds) == n_folds
    sizes = [adata.obs["patient"][fold.test].nunique() for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    by_section = leave_one_section_out(adata)
    check(by_section, adata, "sample")
    number = dict(zip((f"P{i}" for i in range(len(sections))), sections, strict=True))
    assert [fold.leaky for fold in by_section] == [number[fold.name.split("_")[0]] > 1 for fold in by_section]


def test_order_of_rows_does_not_matter() -> None:
    adata = cohort([2, 1, 3, 1, 2])
    order = np.random.default_rng(1).permutation(adata.n_obs)
    for one, other in zip(grouped_k_fold(adata, 3), grouped_k_fold(adata[order], 3), strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.test[order], other.test)


def test_seed_changes_the_groups() -> None:
    adata = cohort([1] * 7)
    names = {tuple(fold.name for fold in grouped_k_fold(adata, 3, seed=seed)) for seed in range(6)}
    assert len(names) > 1


def test_other_columns() -> None:
    adata = cohort([2, 2])
    adata.obs = adata.obs.rename(columns={"patient": "person", "sample": "slide"})
    with pytest.raises(KeyError, match=r"obs\['sample'\]"):
        leave_one_patient_out(adata)
    assert len(leave_one_patient_out(adata, sample_key="slide", patient_key="person")) == 2


def test_assert_disjoint() -> None:
    adata = cohort([2, 2])
    train = (adata.obs["patient"] == "P0").to_numpy()
    assert_disjoint(adata, train, ~train)
    section = (adata.obs["sample"] == "P0_0").to_numpy()
    with pytest.raises(ValueError, match="found P0 in training and test.*allow_leakage=True"):
        assert_disjoint(adata, ~section, section)
    with pytest.raises(KeyError, match=r"obs\['donor'\]; found \['patient', 'sample'\]"):
        assert_disjoint(adata, train, ~train, patient_key="donor")


@pytest.mark.parametrize("n_folds", [0, 1, 4])
def test_numbers_of_folds_that_cannot_be(n_folds: int) -> None:
    with pytest.raises(ValueError, match=r"one per patient \(3\); found n_folds="):
        grouped_k_fold(cohort([1, 1, 1]), n_folds)


def test_too_small_cohorts() -> None:
    with pytest.raises(ValueError, match="two patients.*found P0.*leave_one_section_out"):
        leave_one_patient_out(cohort([3]))
    with pytest.raises(ValueError, match="two sections.*found P0_0"):
        leave_one_section_out(cohort([1]))


def test_section_of_two_patients() -> None:
    adata = cohort([2, 2])
    adata.obs["sample"] = "same"
    for split in (leave_one_patient_out, leave_one_section_out, grouped_k_fold):
        with pytest.raises(ValueError, match="several patients in same"):
            split(adata)
