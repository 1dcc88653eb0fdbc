"""Damaged files of many kinds: tables and pictures of other programs.

Each ends in a right answer or in a documented exception that tells what was expected and what was found.
"""

from __future__ import annotations

import pytest

from faults._kind import WRONG
from faults._kinds import kinds_of
from faults._runner import Outcome, failures, table

KINDS = kinds_of(["tables", "pictures", "platforms"])
LEAST = 1250


@pytest.fixture(scope="module")
def outcomes(damaged) -> list[Outcome]:
    return damaged("tables", "pictures", "platforms")


@pytest.mark.parametrize("name", [kind.name for kind in KINDS])
def test_damages_are_found(name: str, outcomes: list[Outcome]) -> None:
    wrong = [outcome for outcome in outcomes if outcome.kind == name and outcome.verdict in WRONG]
    assert not wrong, failures(wrong)


def test_counts(outcomes: list[Outcome], record_property) -> None:
    record_property("printed", table(outcomes))
    counts = {kind.name: sum(outcome.kind == kind.name for outcome in outcomes) for kind in KINDS}
    assert counts == {kind.name: kind.n for kind in KINDS}
    assert sum(counts.values()) >= LEAST
