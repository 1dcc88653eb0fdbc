"""The command line as a whole: light to start, with an example for everything, and errors in one line."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import stpredict
from stpredict.cli._main import COMMANDS, command, main, make_parser

HEAVY = {"torch", "scanpy", "anndata", "pandas", "numpy", "matplotlib", "spatialdata", "scipy"}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_that_takes_long(option: str) -> None:
    program = (
        "import sys\nfrom stpredict.cli._main import main\ntry:\n    main([sys.argv[1]])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", program, option], capture_output=True, text=True, check=True)
    *shown, modules = found.stdout.splitlines()
    assert not set(eval(modules)) & HEAVY
    assert len(shown) > len(COMMANDS) if option == "--help" else shown == [f"stpredict {stpredict.__version__}"]


def test_there_is_a_module_for_every_command_and_each_is_in_the_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^    {name} ", shown, re.MULTILINE)
        assert f"  stpredict {name}" in shown.split("examples:")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_taken_by_the_parser(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for line in command(name).EXAMPLE.splitlines():
        assert line in shown
        program, *arguments = shlex.split(line)
        assert program == "stpredict"
        assert make_parser().parse_args(arguments).command == name


def test_python_m_and_the_installed_command_are_the_same(capsys: pytest.CaptureFixture) -> None:
    found = subprocess.run([sys.executable, "-m", "stpredict", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout == f"stpredict {stpredict.__version__}\n"
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert 'stpredict = "stpredict.__main__:main"' in project.read_text()


def test_errors_are_a_line_and_debug_shows_where(capsys: pytest.CaptureFixture) -> None:
    assert main(["models", "nothing-of-this-name"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("stpredict: ")
    assert "ridge" in shown.err  # which names there are
    assert shown.err.count("\n") == 1
    with pytest.raises(KeyError):
        main(["--debug", "models", "nothing-of-this-name"])


def test_lists_of_models_and_encoders(capsys: pytest.CaptureFixture) -> None:
    assert main(["models", "hist*"]) == 0
    assert {"hist", "hist2st", "histogene"} <= set(capsys.readouterr().out.split())
    assert main(["models", "ridge"]) == 0
    assert "features" in capsys.readouterr().out
    assert main(["encoders", "color*", "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("name,dim,")
    assert [line.split(",")[0] for line in lines[1:]] == ["color-statistics", "color-texture"]
    assert main(["encoders", "nothing"]) == 1


def test_an_interruption_has_its_own_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command("models"), "run", interrupted)
    assert main(["models"]) == 130
    assert "goes on" in capsys.readouterr().err
