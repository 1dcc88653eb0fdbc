"""Attempts that cannot be prevented: each passes without a mark, and is in the list of the documentation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp
from stpredict.training import FittedModel, TrainingFacts

PAGE = Path(__file__).parents[2] / "docs" / "concepts.md"
Attempt = Callable[[ad.AnnData, Any, Any], set[Any]]


def training_facts_written_by_hand(adata: ad.AnnData, ask: Any, first: Any) -> set[Any]:
    facts = TrainingFacts(patients=["somebody"])
    model = FittedModel(first.model, first.network, first.target, first.features, facts, first.history)
    return ask.predicted(ask.part(adata, "P1"), model)


def marks_written_by_hand(adata: ad.AnnData, ask: Any, first: Any) -> set[Any]:
    part = ask.part(adata, "P1")
    stp.tl.predict(part, first)
    part.obs["predicted_leaky"] = False
    part.uns["stpredict"]["predicted"]["patients_seen"] = ["somebody"]
    return ask.marks(part)


def features_recorded_by_hand(adata: ad.AnnData, ask: Any, first: Any) -> set[Any]:
    mixing = np.random.default_rng(0).normal(size=(adata.n_vars, 8))
    adata.obsm["X_mine"] = np.tanh(adata.X.toarray() @ mixing / 9)
    adata.uns["stpredict"]["X_mine"] = {"encoder": "mine"}
    return ask.validated(adata, features="X_mine")


def a_truth_of_ones_own(adata: ad.AnnData, ask: Any, first: Any) -> set[Any]:
    part = ask.part(adata, "P2")
    stp.tl.predict(part, first)
    part.layers["mine"] = stp.get.predicted(part).to_df()[part.var_names].to_numpy()
    return ask.marks(part, layer="mine")


def genes_picked_after_scoring(adata: ad.AnnData, ask: Any, first: Any) -> set[Any]:
    part = ask.part(adata, "P2")
    stp.tl.predict(part, first)
    best = stp.tl.evaluate(part, **ask.quick).groupby("gene")["pearson"].mean().nlargest(3)
    return ask.marks(part, genes=list(best.index))


def a_few_genes_of_a_selection(adata: ad.AnnData, ask: Any, first: Any) -> set[Any]:
    stp.pp.select_genes(adata, "mean", n_genes=8)
    return ask.validated(adata, target=list(adata.var_names[adata.var["selected"]])[:3])


def a_selection_of_which_every_trace_was_removed(adata: ad.AnnData, ask: Any, first: Any) -> set[Any]:
    stp.pp.select_genes(adata, "mean", n_genes=8)
    adata = adata[:, adata.var["selected"]].copy()
    del adata.var["selected"], adata.uns["stpredict"]["selected"]
    return ask.validated(adata)


def sections_entered_as_patients(adata: ad.AnnData, ask: Any, first: Any) -> set[Any]:
    adata.obs["patient"] = adata.obs["sample"].to_numpy()
    return ask.validated(adata)


def copies_with_other_counts_and_features(adata: ad.AnnData, ask: Any, first: Any) -> set[Any]:
    rng = np.random.default_rng(0)
    part = ask.part(adata, "P1")
    part.layers["counts"] = rng.poisson(part.layers["counts"].toarray() + 1.0)
    part.obsm["X_color-texture"] = part.obsm["X_color-texture"] + rng.normal(0, 0.05, (part.n_obs, 153)).astype("f4")
    part.obs["patient"], part.obs["sample"] = "Q", [f"Z{name}" for name in part.obs["sample"]]
    return ask.predicted(part, first)


def the_best_of_many_runs(adata: ad.AnnData, ask: Any, first: Any) -> set[Any]:
    runs = [stp.tl.cross_validate(adata, ["ridge"], 2, seed=seed, **ask.quick) for seed in range(2)]
    return set(max(runs, key=lambda table: table["pearson"].mean())["leaky"])


ATTEMPTS = [
    training_facts_written_by_hand, marks_written_by_hand, features_recorded_by_hand, a_truth_of_ones_own,
    genes_picked_after_scoring, a_few_genes_of_a_selection, a_selection_of_which_every_trace_was_removed,
    sections_entered_as_patients, copies_with_other_counts_and_features, the_best_of_many_runs,
]  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_cannot_be_prevented_passes_without_a_mark(cohort: ad.AnnData, ask, first, attempt: Attempt) -> None:
    assert attempt(cohort, ask, first) == {False}


def test_the_documentation_lists_what_cannot_be_prevented() -> None:
    section = PAGE.read_text().split("### What a mark cannot see\n")[1].split("\n## ")[0]
    listed = [
        re.sub(r"[^a-z ]", "", title.lower()).replace(" ", "_")
        for title in re.findall(r"^- \*\*(.+?)[.:]\*\*", section, re.M)
    ]
    assert listed == [attempt.__name__ for attempt in ATTEMPTS]
