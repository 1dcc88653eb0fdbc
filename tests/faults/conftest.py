from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faults._runner import Outcome


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Outcome]]:
    """Runner of the damages of some groups of kinds, in a process of its own, whose workers are forked from one thread."""

    def run(*groups: str) -> list[Outcome]:
        file = tmp_path_factory.mktemp("faults") / "outcomes.json"
        command = [sys.executable, "-m", "faults", "--kinds", ",".join(groups), "--json", str(file)]
        paths = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        assert file.is_file(), done.stdout + done.stderr
        return [Outcome(**outcome) for outcome in json.loads(file.read_text())]

    return run
