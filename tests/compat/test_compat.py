"""What releases wrote is read by this version: saved models, outcomes, maps, cohorts, entries of the cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import stpredict as stp

sys.path.insert(0, str(Path(__file__).parent))
import make as maker

RELEASES = sorted(path for path in Path(__file__).parent.iterdir() if (path / "expected.json").is_file())
LARGEST = 300_000  # bytes of a release

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def same(found: object, wanted: object, where: str = "") -> None:
    """The same names and texts, and numbers up to the rounding of another machine."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict), where
        assert found.keys() == wanted.keys(), where
        for name, value in wanted.items():
            same(found[name], value, f"{where}/{name}")
    elif isinstance(wanted, list) and np.asarray(wanted).dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=where)
    else:
        assert found == wanted, where


def test_the_current_release_is_among_them() -> None:
    assert ".".join(stp.__version__.split(".")[:2]) in {path.name for path in RELEASES}


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_what_a_release_wrote_is_read(release: Path) -> None:
    wanted = json.loads((release / "expected.json").read_text())
    assert set(wanted) >= {"ridge", "mlp", "outcome", "map", "cache", "cohort"}
    same(maker.predictions(release), wanted)
    assert wanted["cache"] == maker.cached().tolist()


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_it_is_small_and_names_no_place(release: Path) -> None:
    files = [path for path in release.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST
    content = b"".join(path.read_bytes() for path in files)
    assert b"/home/" not in content
    assert b"/tmp/" not in content


@pytest.mark.parametrize("what", ["ridge", pytest.param("all", marks=pytest.mark.slow)])
def test_the_script_writes_the_same_files_today(what: str, tmp_path: Path) -> None:
    """Other files are another layout: raise the release, and keep the folder of this one."""
    release = Path(__file__).parent / ".".join(stp.__version__.split(".")[:2])
    (maker.make if what == "all" else maker.make_ridge)(tmp_path)
    where = "" if what == "all" else what
    names = [
        {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        for folder in (tmp_path / where, release / where)
    ]
    assert names[0] == names[1]
    one, other = (json.loads((folder / "ridge" / "config.json").read_text()) for folder in (tmp_path, release))
    assert one.keys() == other.keys()
    assert one["training"].keys() == other["training"].keys()
