"""Spots of the training under other names of their section and patient, whole or in part, as they are or changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp

SLOT = "X_color-texture"
Change = Callable[[ad.AnnData], ad.AnnData]


def as_it_is(adata: ad.AnnData) -> ad.AnnData:
    return adata


def shuffled(adata: ad.AnnData) -> ad.AnnData:
    return adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()


def a_third(adata: ad.AnnData) -> ad.AnnData:
    return adata[np.random.default_rng(2).permutation(adata.n_obs)[: adata.n_obs // 3]].copy()


def rescaled(adata: ad.AnnData) -> ad.AnnData:
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1] * 3 + 17
    return adata


def without_counts(adata: ad.AnnData) -> ad.AnnData:
    del adata.layers["counts"], adata.obsm[SLOT]
    adata.obsm[SLOT] = np.random.default_rng(0).normal(size=(adata.n_obs, 153)).astype(np.float32)
    return adata


def counts_as_x(adata: ad.AnnData) -> ad.AnnData:
    adata.X = adata.layers["counts"] * 2.0
    return without_counts(adata)


def cut_genes(adata: ad.AnnData) -> ad.AnnData:
    return adata[:, adata.var_names[::2]].copy()


def other_features(adata: ad.AnnData) -> ad.AnnData:
    adata.obsm[SLOT] = adata.obsm[SLOT] + np.random.default_rng(0).normal(size=adata.obsm[SLOT].shape).astype(
        np.float32
    )
    return adata[:, ::-1].copy()


def other_counts(adata: ad.AnnData) -> ad.AnnData:
    rng = np.random.default_rng(0)
    adata.layers["counts"] = rng.poisson(20, adata.shape).astype(np.float32)
    return adata


def with_another_one(adata: ad.AnnData) -> ad.AnnData:
    """Half of the spots of a section that nobody has seen are replaced by those of the training."""
    other = adata[adata.n_obs // 2 :].copy()
    other.layers["counts"] = np.random.default_rng(0).poisson(20, other.shape).astype(np.float32)
    other.obsm[SLOT] = np.random.default_rng(0).normal(size=other.obsm[SLOT].shape).astype(np.float32)
    other.obs_names = [f"new{name}" for name in other.obs_names]
    joined = ad.concat([adata[: adata.n_obs // 2], other], uns_merge="first")
    joined.uns = adata.uns
    return joined


def through_a_file(adata: ad.AnnData) -> ad.AnnData:
    from scipy import sparse

    adata.layers["counts"] = sparse.csc_matrix(adata.layers["counts"])
    adata.obs_names = [f"{i}" for i in range(adata.n_obs)]
    return adata


CHANGES = [
    as_it_is, shuffled, a_third, rescaled, without_counts, counts_as_x, cut_genes, other_features, other_counts,
    with_another_one, through_a_file,
]  # fmt: skip


def renamed(adata: ad.AnnData, ask: Any, change: Change) -> ad.AnnData:
    """One of the sections of the first patient as that of somebody else."""
    new = ask.part(adata, "P1_S1", "sample")
    new.uns["stpredict"] = dict(adata.uns["stpredict"])
    new = change(new)
    new.obs["sample"], new.obs["patient"] = "Z", "Q"
    return new


@pytest.mark.parametrize("change", CHANGES)
def test_training_spots_under_other_names_are_marked(cohort: ad.AnnData, ask, first, change: Change) -> None:
    new = renamed(cohort, ask, change)
    assert set(new.obs["patient"]) == {"Q"}
    stp.tl.predict(new, first)
    assert set(new.obs["predicted_leaky"]) == {True}
    assert ask.marks(new) == {True}
    del new.obs["predicted_leaky"]
    assert ask.marks(new) == {True}
    new.obs["sample"] = "Y"
    assert ask.marks(new) == {"unknown"}


def test_all_sections_of_a_recognized_person_are_marked(cohort: ad.AnnData, ask, first) -> None:
    new = ad.concat([renamed(cohort, ask, a_third), ask.part(cohort, "P2"), ask.part(cohort, "P3")], uns_merge="first")
    new.obs["patient"] = new.obs["patient"].astype(str).replace("P3", "Q")
    stp.tl.predict(new, first)
    told = new.obs.groupby("sample", observed=True)["predicted_leaky"].agg(set)
    assert told.to_dict() == {"P2_S1": {False}, "P2_S2": {False}, "P3_S1": {True}, "P3_S2": {True}, "Z": {True}}
    assert new.uns["stpredict"]["predicted"]["recognized"].tolist() == ["Z"]


@pytest.mark.parametrize("change", [as_it_is, shuffled, a_third, rescaled, other_features, other_counts])
def test_a_copied_section_is_on_one_side_of_a_fold(cohort: ad.AnnData, ask, change: Change) -> None:
    copy = renamed(cohort, ask, change)
    copy.obs_names = [f"copy{name}" for name in copy.obs_names]
    both = ad.concat([cohort, copy], uns_merge="first")
    both.uns = cohort.uns
    with pytest.raises(
        ValueError, match=r"spots of section '\w+', which is in its test side, in training as (Z|P1_S1)"
    ):
        stp.tl.cross_validate(both, ["ridge"], **ask.quick)
    with pytest.raises(ValueError, match="one side of fold"):
        stp.tl.fit_folds(both, "ridge", 4, baselines=[])
    scores = stp.tl.cross_validate(both, ["ridge"], allow_leakage=True, **ask.quick)
    told = scores.groupby("patient")["leaky"].agg(set).to_dict()
    assert told == {"P1": {True}, "P2": {False}, "P3": {False}, "Q": {True}}


def test_sections_of_one_cohort_are_not_taken_for_each_other() -> None:
    """Few genes, few counts, equal lattices: spots that are alike by chance are not evidence."""
    from stpredict.slots._content import recognize, remember

    for n_genes, depth, n_spots in ((10, 12, 900), (8, 100, 49), (40, 30, 400)):
        rng = np.random.default_rng(depth)
        share = rng.dirichlet(np.ones(n_genes))
        counts = rng.poisson(depth * share * rng.gamma(2, 0.5, (8 * n_spots, 1))).astype(np.float32)
        adata = ad.AnnData(counts)
        sample, index = np.repeat([f"s{i}" for i in range(8)], n_spots), np.arange(8 * n_spots)
        found = recognize(adata, index, sample, [remember(adata, index, sample, panel=list(adata.var_names[:6]))])
        assert all(known == {name} for name, known in found.items())


def test_what_is_remembered_holds_no_measurement(cohort: ad.AnnData, first, tmp_path: Any) -> None:
    content = first.training.content
    assert list(content[0]["sections"]) == ["P1_S1", "P1_S2"]
    assert len(str(content)) < 5000
    model = stp.training.FittedModel.load(first.save(tmp_path / "model"))
    assert model.training.content == content
    assert "content" not in repr(model.training)


@pytest.mark.parametrize("key", ["section", "patient"])
def test_sections_do_not_pass_as_patients(cohort: ad.AnnData, ask, key: str) -> None:
    cohort.obs["donor" if key == "patient" else "person"] = cohort.obs["patient"].to_numpy()
    cohort.obs[key] = cohort.obs["sample"].to_numpy()
    for call in (
        lambda: stp.tl.cross_validate(cohort, ["ridge"], patient_key=key, **ask.quick),
        lambda: stp.tl.fit(cohort, "ridge", patient_key=key),
        lambda: stp.tl.fit_folds(cohort, "ridge", 2, patient_key=key),
        lambda: stp.cohorts.leave_one_patient_out(cohort, patient_key=key),
    ):
        with pytest.raises(ValueError, match=rf"expected people in obs\['{key}'\].*names one person for P1_S1, P1_S2"):
            call()


def test_the_column_of_sections_is_none_of_patients(cohort: ad.AnnData, ask) -> None:
    with pytest.raises(ValueError, match=r"patients in another column.*obs\['sample'\]"):
        stp.tl.cross_validate(cohort, ["ridge"], patient_key="sample", **ask.quick)
    every = cohort[cohort.obs["sample"].astype(str).str.endswith("S1")].copy()
    every.obs["donor_id"] = "unknown"  # which is nobody
    every.obs["case"] = every.obs["patient"].astype(str)
    assert ask.validated(every, patient_key="case") == {False}


def test_halves_of_a_section_and_banks_of_the_test_patient_are_refused(cohort: ad.AnnData, ask) -> None:
    half = np.arange(cohort.n_obs) % 2 == 0
    fold = stp.cohorts.Fold("half", half, ~half)
    assert ask.validated(cohort, splitter=[fold]) == {"refused"}
    assert ask.validated(cohort, splitter=[fold], allow_leakage=True) == {True}


def test_starting_weights_bring_their_sections_along(cohort: ad.AnnData, ask, first, tmp_path: Any) -> None:
    start = stp.tl.fit(
        cohort, "mlp", cohort.obs["patient"].eq("P1").to_numpy(), training={"max_epochs": 1}, baselines=[]
    )
    later = stp.tl.fit(
        cohort,
        start.save(tmp_path / "start"),
        cohort.obs["patient"].eq("P2").to_numpy(),
        training={"max_epochs": 1},
        baselines=[],
    )
    assert ask.predicted(renamed(cohort, ask, shuffled), later) == {True}
    assert ask.predicted(ask.part(cohort, "P3"), later) == {False}
    assert ask.predicted(ask.part(cohort, "P3"), [first, first]) == {False}
    assert ask.predicted(renamed(cohort, ask, shuffled), [first, first]) == {True}
    other = cohort.copy()
    other.obs["patient"] = other.obs["patient"].astype(str).replace("P1", "Q")
    other.obs["sample"] = other.obs["sample"].astype(str).str.replace("P1", "Q")
    spec = {"net": {"model": start, "training": {"max_epochs": 1}}}
    scores = stp.tl.cross_validate(other, spec, **ask.quick)
    assert scores.groupby("patient")["leaky"].agg(set).to_dict() == {"P2": {False}, "P3": {False}, "Q": {True}}
