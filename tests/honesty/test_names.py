"""A patient of the training under another name: every spelling of the name is the name."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

SPELLINGS: list[tuple[Any, Any]] = [
    ("P1", " P1"), ("P1", "P1 "), ("P1", "p1"), ("P1", "P\u200b1"), ("P1", "P01"), ("P1", "P1.0"), (1, 1.0), ("1", 1.0),
    ("P1", "\uff30\uff11"), ("Case 1", "case  001"), (True, "true"), ("A-1", "a-1.00"),
]  # fmt: skip


@pytest.mark.parametrize(("known", "other"), SPELLINGS)
def test_another_section_of_a_known_person_is_marked(toy: ad.AnnData, ask, known: Any, other: Any) -> None:
    one, two = (ask.part(toy, name, "sample") for name in ("s0", "s1"))
    one.obs["patient"], two.obs["patient"] = [known] * one.n_obs, [other] * two.n_obs
    assert ask.predicted(two, stp.tl.fit(one, "ridge", baselines=[])) == {True}


@pytest.mark.parametrize("kind", ["text", "category", "mixed"])
def test_two_spellings_are_one_patient_of_a_cross_validation(cohort: ad.AnnData, ask, kind: str) -> None:
    names = {"P1": ["P1", " P1"], "P2": ["P2", "P2"], "P3": ["P3", "p03"]}
    if kind == "mixed":
        names = {"P1": [1, 1.0], "P2": ["2", 2], "P3": [3, "3.0"]}  # type: ignore[dict-item]
    half = cohort.obs["sample"].astype(str).str.endswith("S2").to_numpy(dtype=int)
    people = [names[name][second] for name, second in zip(cohort.obs["patient"].astype(str), half, strict=True)]
    cohort.obs["patient"] = (
        pd.Categorical(list(map(str, people))) if kind == "category" else np.array(people, dtype=object)
    )
    scores = stp.tl.cross_validate(cohort, ["ridge"], **ask.quick)
    assert scores["patient"].nunique() == 3
    assert not scores["leaky"].any()
    folds = stp.cohorts.leave_one_section_out(cohort)
    assert ask.validated(cohort, splitter=folds) == {"refused"}
    assert ask.validated(cohort, splitter=folds, allow_leakage=True) == {True}


def test_other_people_are_not_marked(cohort: ad.AnnData, ask, first) -> None:
    for other in ("P11", "P10", "1P", "P1b", "P"):
        new = ask.part(cohort, "P2")
        new.obs["patient"] = other
        assert ask.predicted(new, first) == {False}
