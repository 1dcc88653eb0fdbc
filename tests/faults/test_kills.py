"""A few of the kills of `benchmarks/kills.py`: what is killed at any moment comes out as if it were not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are not part of a source distribution")
def test_what_is_killed_and_called_again_is_what_nobody_killed() -> None:
    operations = ["fit", "map", "shell"]  # checkpoints and a saved model, a store, many slides; the others take longer
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--kills", "5", "--only", *operations]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    rows = {line.split()[0]: line.split()[-4:] for line in found.stdout.splitlines()[1:]}
    assert rows.keys() == {*operations, "total"}
    kills, sequences, equal, left = map(int, rows["total"])
    assert kills == 5
    assert sequences == equal >= len(operations)
    assert left == 0
