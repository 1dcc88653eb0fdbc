"""One person under several spellings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._people import among, one_name, person, strangers
from stpredict.slots._rows import rows_of

SAME = [
    (1, 1.0), ("1", 1.0), (np.int64(7), "7.0"), ("007", 7), ("P1", " P1 "), ("P1", "P1\u200b"),
    ("P 1", "P\u00a0 1"), ("\uff30\uff11", "P1"), ("Ana\u0308", "An\u00e4"), ("2.50", 2.5), (1e16, "10000000000000000"),
    (np.float32(3), True + 2), ("P1", "P01"), ("P1", "P1.0"), ("A-001 b", "A-1 b"), ("case 7.00", "Case 07"),
]  # fmt: skip
OTHERS = [
    ("A0U4", "AU4"),
    ("P1", "P10"),
    ("P1.01", "P1.1"),
    ("P1", "P11"),
    ("1", "-1"),
    ("1.5", "15"),
    ("P1", "P-1"),
    ("1e3", "1000"),
    ("", "0"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_people_are_compared_by_value(one: Any, other: Any) -> None:
    assert person(one) == person(other)
    assert among([one, "else"], [other]).tolist() == [True, False]
    assert strangers([one], [other]) == []


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_other_people_stay_others(one: str, other: str) -> None:
    assert person(one) != person(other)
    assert strangers([one], [other]) == [one]


@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_one_spelling_of_each_person_is_shown(dtype: Any) -> None:
    names = pd.Series([" p2", "P1 ", "P1", "p2", "B"], dtype=dtype)
    assert one_name(names).tolist() == ["p2", "P1", "P1", "p2", "B"]
    plain = pd.Series(["10", "9", "B"], dtype=dtype)
    assert one_name(plain).tolist() == ["10", "9", "B"]


def test_rows_of_a_mixed_column(toy) -> None:
    toy.obs["patient"] = pd.Series([1] * 24 + [1.0] * 24 + ["2"] * 24, dtype=object).to_numpy()
    rows = rows_of(toy)
    assert rows.patients == ["1", "2"]
    assert rows.person.tolist() == [0] * 48 + [1] * 24


@pytest.mark.parametrize(("one", "other"), [("12", 12.0), ("Case 4", "case  4"), (np.int32(3), "3 ")])
def test_predictions_of_a_known_person_are_marked(toy, one: Any, other: Any) -> None:
    known, new = toy[:24].copy(), toy[24:48].copy()
    known.obs["patient"], new.obs["patient"] = [one] * 24, [other] * 24
    known.uns["stpredict"] = new.uns["stpredict"] = toy.uns["stpredict"]
    for part in (known, new):
        stp.pp.normalize(part)
    model = stp.tl.fit(known, "ridge", baselines=[])
    stp.tl.predict(new, model)
    assert new.obs["predicted_leaky"].all()
    assert stp.tl.evaluate(new, metrics=["pearson"], baselines=False)["leaky"].all()


def test_two_spellings_are_on_one_side_of_a_fold(toy) -> None:
    stp.pp.normalize(toy)
    toy.obs["patient"] = ["P1"] * 12 + ["P1 "] * 12 + ["p2"] * 12 + ["P2"] * 12 + ["3"] * 12 + ["3.0"] * 12
    folds = stp.cohorts.leave_one_patient_out(toy)
    assert [fold.name for fold in folds] == ["3", "P1", "P2"]
    assert [int(fold.test.sum()) for fold in folds] == [24, 24, 24]
    assert all(fold.leaky for fold in stp.cohorts.leave_one_section_out(toy))
    with pytest.raises(ValueError, match="one per patient"):
        stp.cohorts.grouped_k_fold(toy, 4)
    half = (toy.obs["sample"].astype(str).str[1:].astype(int) % 2 == 0).to_numpy()
    with pytest.raises(ValueError, match="found 3, P1, P2 in training and test"):
        stp.cohorts.assert_disjoint(toy, half, ~half)
    scores = stp.tl.cross_validate(toy, ["ridge"], metrics=["pearson"], baselines=False, ceiling=False)
    assert sorted(scores["patient"].unique()) == ["3", "P1", "P2"]
    assert not scores["leaky"].any()


def test_a_selection_on_another_spelling_is_no_stranger(toy) -> None:
    stp.pp.normalize(toy)
    train = (toy.obs["patient"] != "p0").to_numpy()
    stp.pp.select_genes(toy, "mean", n_genes=3, train=train)
    toy.obs["patient"] = toy.obs["patient"].astype(str).str.upper() + " "
    assert len(stp.tl.fit(toy, "ridge", train, baselines=[]).panel) == 3
