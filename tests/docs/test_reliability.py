"""The promises of the page, and of `SECURITY.md`: the tests that they name exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
SHELL = sorted(path for path in (*(ROOT / "docs").rglob("*.md"), ROOT / "README.md") if "_build" not in path.parts)


def rows() -> list[str]:
    """Rows of the tables but their heads."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [line for line in lines if line not in ("| promise | test |", "| --- | --- |")]


def test_every_promise_names_a_test() -> None:
    assert len(rows()) > 20
    assert not [row for row in rows() if not _NAMED.search(row.rsplit("|", 2)[1])]


@pytest.mark.parametrize(("path", "name"), sorted(set(_NAMED.findall(PAGE.read_text()))))
def test_a_named_test_exists(path: str, name: str) -> None:
    assert name.startswith("test_")
    assert f"def {name}(" in (ROOT / path).read_text()


@pytest.mark.parametrize("page", SHELL, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_of_the_pages_are_taken_by_the_shell(page: Path) -> None:
    from stpredict.cli._main import make_parser

    blocks = re.findall(r"^```(?:bash|console|sh)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["stpredict"]:
                make_parser().parse_args(["--debug", *words[1 : words.index("&") if "&" in words else None]])
