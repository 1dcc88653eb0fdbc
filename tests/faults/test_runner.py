"""The harness itself: that it sees a crash, a hang, a flood of memory, a raw error, NaN and silent damage, and goes on."""

from __future__ import annotations

import math
import os
import time
import warnings
from pathlib import Path
from random import Random

import numpy as np
import pytest

from faults import _mutations
from faults._kind import Kind, note, same, unfinite
from faults._runner import run, table


def _make(folder: Path) -> None:
    (folder / "a.txt").write_text("whole\n")


def _fate(what: str) -> dict[str, object]:
    """One end for every damage."""
    if what == "abort":
        os.abort()
    if what == "hang":
        while True:
            pass
    if what == "flood":
        np.ones(2**40)
    if what == "foreign end":
        note("foreign")
        os.abort()
    if what == "raw":
        raise KeyError("x")
    if what == "helpful":
        raise ValueError("expected an x in a.txt; found y; write it again")
    if what == "undocumented":
        raise RuntimeError("expected an x; found y")
    if what == "warned":
        warnings.warn("invalid value encountered in divide", RuntimeWarning, stacklevel=1)
    return {"value": {"NaN": math.nan, "whole": 1.0, "warned": 1.0}.get(what, 2.0)}


FATES = {
    "abort": "crash", "hang": "hang", "flood": "memory", "foreign end": "unread", "raw": "raw", "helpful": "helpful",
    "undocumented": "raw", "warned": "raw", "NaN": "unfinite", "whole": "same", "another": "silent",
}  # fmt: skip


class _Fates(Kind):
    def damage(self, rng: Random, folder: Path) -> tuple[str, str]:
        (folder / "a.txt").write_text(list(FATES)[self.count(folder)])
        return "a.txt", "fate"

    def count(self, folder: Path) -> int:
        """How many damages there were before."""
        log = folder.parent / "count"
        done = len(log.read_text()) if log.exists() else 0
        log.write_text("." * (done + 1))
        return done


def test_every_end_is_seen_and_the_rest_goes_on(tmp_path: Path) -> None:
    kind = _Fates("fates", _make, lambda f: _fate((f / "a.txt").read_text().strip()), ("*",), 1, sealed=True)
    outcomes = run(kind, range(len(FATES)), tmp_path, seconds=0.5)
    assert {list(FATES)[outcome.seed]: outcome.verdict for outcome in outcomes} == FATES
    assert table(outcomes).splitlines()[-1].split()[:2] == ["total", str(len(FATES))]


def test_files_that_are_read_differently_each_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="two readings of the whole files differ"):
        run(Kind("clock", _make, lambda f: {"now": time.time()}, ("*",), 1), [0], tmp_path)


def test_damages_are_the_same_for_a_seed(tmp_path: Path) -> None:
    data = b"name\tvalue\na\t1\nb\t2\n" * 5
    for group in (_mutations.BYTES, _mutations.TEXT):
        for mutation in group:
            first = [mutation(Random(seed), data) for seed in range(8)]
            assert first == [mutation(Random(seed), data) for seed in range(8)], mutation.__name__
            assert any(changed != data for changed in first), mutation.__name__


def test_answers_are_compared_bit_for_bit() -> None:
    whole = {"a": np.array([1.0, np.nan]), "b": {"c": ["x", None]}}
    assert same(whole, {"a": np.array([1.0, np.nan]), "b": {"c": ["x", None]}})
    for other in (
        whole | {"a": np.array([1.0, 1.0])}, whole | {"a": np.array([1.0, np.nan], np.float32)}, {"a": whole["a"]},
        whole | {"b": {"c": ["x", "y"]}},
    ):  # fmt: skip
        assert not same(whole, other)
    assert unfinite(whole) == 1
    assert unfinite({"a": [math.inf, {"b": np.array([np.inf, -np.inf])}], "c": "nan"}) == 3
