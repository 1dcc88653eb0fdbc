"""A few of the kills of `benchmarks/kills.py`: what is killed at any moment comes out as if it were not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are not part of a source distribution")
@pytest.mark.parametrize(
    ("operations", "kills", "in_a_row"),
    [
        (["fit", "map"], 3, None),  # checkpoints and a saved model, and a store; the others take longer
        (["shell"], 5, 5),  # many slides, on which the same command is called six times
    ],
)
def test_what_is_killed_and_called_again_is_what_nobody_killed(
    operations: list[str], kills: int, in_a_row: int | None
) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--kills", str(kills), "--only", *operations]
    command += [] if in_a_row is None else ["--in-a-row", str(in_a_row)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    rows = {line.split()[0]: line.split()[-4:] for line in found.stdout.splitlines()[1:]}
    assert rows.keys() == {*operations, "total"}
    n_kills, sequences, equal, left = map(int, rows["total"])
    assert n_kills == kills
    assert sequences == equal
    assert sequences >= len(operations) if in_a_row is None else sequences == 1
    assert left == 0
