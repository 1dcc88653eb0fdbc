"""The script that tries the built wheel knows every extra, and sees what goes wrong."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "wheels.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are not part of a source distribution")


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheels_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_every_extra_has_a_call(wheels) -> None:
    assert set(wheels.CALLS) | {"all"} == set(wheels.extras())
    for code in [*wheels.CALLS.values(), wheels.readme_lines()]:
        assert any(isinstance(node, ast.Attribute) for node in ast.walk(ast.parse(code)))


@pytest.mark.parametrize(
    ("code", "extra", "ok"),
    [
        ("print(1)", "viz", True),
        (
            "raise ImportError(\"this needs bokeh; install it with: pip install 'stpredict-histology[viz]'\")",
            "viz",
            True,
        ),
        (
            "raise ImportError(\"this needs bokeh; install it with: pip install 'stpredict-histology[wsi]'\")",
            "viz",
            False,
        ),
        ("import a_package_that_nobody_has", "viz", False),
    ],
)
def test_messages_have_to_name_the_extra(wheels, code, extra, ok, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(wheels, "CALLS", {extra: code})
    monkeypatch.setattr(wheels, "readme_lines", lambda: "print(2)")
    environment = wheels.Environment(Path(sys.executable), tmp_path, 0.0)
    found = {what: went for what, went, _ in wheels.without_extra(environment)}
    assert found == {"lines of the README": True, f"message for {extra}": ok}
    assert wheels.with_extra(environment, "all")[0][1] == (code == "print(1)")
