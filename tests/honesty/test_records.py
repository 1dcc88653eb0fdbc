"""Marks of predictions whose columns, records, slots or names were lost, changed, copied or joined afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

Change = Callable[[ad.AnnData], Any]


@pytest.fixture
def scored(cohort: ad.AnnData, first: Any) -> ad.AnnData:
    """Predictions of all patients by a model of the first."""
    stp.tl.predict(cohort, first)
    return cohort


def by_patient(adata: ad.AnnData, ask: Any, key: str = "predicted") -> list[Any]:
    table = stp.tl.evaluate(adata, key, **ask.quick)
    return [next(iter(set(part))) for _, part in table.groupby("patient")["leaky"]]


def column_lost(adata: ad.AnnData) -> None:
    del adata.obs["predicted_leaky"]


def column_set_to_false(adata: ad.AnnData) -> None:
    adata.obs["predicted_leaky"] = False


def column_from_a_csv(adata: ad.AnnData) -> None:
    adata.obs["predicted_leaky"] = adata.obs["predicted_leaky"].astype(str).to_numpy()


def column_with_gaps(adata: ad.AnnData) -> None:
    adata.obs["predicted_leaky"] = adata.obs["predicted_leaky"].astype("boolean").where(adata.obs["patient"] != "P3")


def record_without_patients(adata: ad.AnnData) -> None:
    del adata.uns["stpredict"]["predicted"]["patients_seen"], adata.obs["predicted_leaky"]


def record_with_nobody(adata: ad.AnnData) -> None:
    adata.uns["stpredict"]["predicted"]["patients_seen"] = np.array([])


def patients_renamed(adata: ad.AnnData) -> None:
    adata.obs["patient"] = adata.obs["patient"].astype(str).replace("P1", "P4")


def patients_renamed_and_column_lost(adata: ad.AnnData) -> None:
    patients_renamed(adata)
    column_lost(adata)
    adata.obs["sample"] = adata.obs["sample"].astype(str).str.replace("P1", "P4")


def sections_renamed_and_column_lost(adata: ad.AnnData) -> None:
    adata.obs["sample"] = adata.obs["sample"].astype(str) + "x"
    column_lost(adata)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (column_lost, [True, False, False]),
        (column_set_to_false, [True, False, False]),
        (column_from_a_csv, [True, False, False]),
        (column_with_gaps, [True, False, "unknown"]),
        (record_without_patients, [True, "unknown", "unknown"]),
        (record_with_nobody, [True, "unknown", "unknown"]),
        (patients_renamed, [False, False, True]),
        (patients_renamed_and_column_lost, [False, False, "unknown"]),
        (sections_renamed_and_column_lost, ["unknown"] * 3),
    ],
)
def test_marks_of_changed_objects(scored: ad.AnnData, ask, change: Change, expected: list[Any]) -> None:
    change(scored)
    assert by_patient(scored, ask) == expected


def test_a_copied_slot_is_of_unknown_origin(scored: ad.AnnData, ask) -> None:
    scored.obsm["mine"] = stp.get.predicted(scored).to_df()
    assert ask.marks(scored, "mine") == {"unknown"}


def test_a_baseline_has_the_marks_of_its_prediction(cohort: ad.AnnData, ask) -> None:
    known = cohort.obs["patient"].eq("P1").to_numpy()
    stp.tl.predict(cohort, stp.tl.fit(cohort, "ridge", known, baselines=["mean"]))
    assert by_patient(cohort, ask, "predicted_baseline_mean") == [True, False, False]


def test_a_record_speaks_of_its_own_sections_only(cohort: ad.AnnData, ask) -> None:
    """Every patient was predicted by the model of the next: no one's record is that of the others."""
    parts = {name: ask.part(cohort, name) for name in ("P1", "P2", "P3")}
    for name, other in (("P1", "P2"), ("P2", "P3"), ("P3", "P3")):
        assert ask.predicted(parts[name], ask.fitted(cohort, other)) == {name == other}
    joined = ad.concat(list(parts.values()), uns_merge="first")
    assert by_patient(joined, ask) == [False, "unknown", True]
    del joined.obs["predicted_leaky"]
    assert by_patient(joined, ask) == [False, "unknown", "unknown"]


def test_a_joined_object_without_any_record_has_its_column(scored: ad.AnnData, ask) -> None:
    parts = [ask.part(scored, name) for name in ("P1", "P2")]
    named = [stp.get.predicted(part).to_df() for part in parts]
    joined = ad.concat(parts)
    joined.uns["stpredict"] = {"normalize": scored.uns["stpredict"]["normalize"]}
    joined.obsm["predicted"] = pd.concat(named)
    assert by_patient(joined, ask) == [True, False]


def test_another_truth_and_chosen_genes_are_told(scored: ad.AnnData, ask) -> None:
    scored.layers["smooth"] = stp.get.predicted(scored).to_df()[scored.var_names].to_numpy()
    table = stp.tl.evaluate(
        scored,
        layer="smooth",
        genes=["G0", "G3"] if "G0" in scored.var_names else list(scored.var_names[:2]),
        **ask.quick,
    )
    assert set(table["layer"]) == {"smooth"}
    assert set(table["chosen_genes"]) == {"2 of 16"}
    summary = stp.tl.summarize(table).iloc[0]
    assert (summary["layer"], summary["chosen_genes"], summary["leaky"]) == ("smooth", "2 of 16", True)
    assert not {"layer", "chosen_genes"} & set(stp.tl.evaluate(scored, **ask.quick))
    scores = stp.tl.cross_validate(scored, ["ridge"], target=stp.targets.Expression(layer="smooth"), **ask.quick)
    assert set(scores["layer"]) == {"smooth"}


def test_folds_sections_and_ensembles_of_honest_models_are_clean(cohort: ad.AnnData, ask) -> None:
    models = stp.tl.fit_folds(cohort, "ridge", 3, baselines=["mean"])
    assert ask.marks(cohort) == {False}
    assert ask.predicted(cohort, models) == {True}  # together they saw everyone
    assert ask.predicted(ask.part(cohort, "P3"), [ask.fitted(cohort, "P1"), ask.fitted(cohort, "P2")]) == {False}
    assert ask.validated(cohort, splitter="section") == {"refused"}
    assert ask.validated(cohort, splitter="section", allow_leakage=True) == {True}


def test_a_table_without_its_column_is_of_unknown_origin(scored: ad.AnnData, ask) -> None:
    table = stp.tl.evaluate(scored, **ask.quick).drop(columns="leaky")
    assert stp.tl.summarize(table)["leaky"].tolist() == ["unknown"]
    ax = stp.pl.scores(table, ceiling=False)
    assert any("leak unknown" in label.get_text() for label in [*ax.get_xticklabels(), *ax.get_yticklabels()])


def test_objects_that_the_package_joined_keep_their_marks(cohort: ad.AnnData, ask) -> None:
    parts = {name: ask.part(cohort, name) for name in ("P1", "P2", "P3")}
    for name, other in (("P1", "P2"), ("P2", "P3"), ("P3", "P3")):
        stp.tl.predict(parts[name], ask.fitted(cohort, other))
    joined = stp.concat(parts)
    assert by_patient(joined, ask) == [False, False, True]
    assert ask.validated(joined) == {False}  # features of parts are as they were recorded
    del joined.obs["predicted_leaky"]
    assert by_patient(joined, ask) == ["unknown"] * 3
