from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import stpredict as stp

NAMESPACES = [
    "cohorts",
    "datasets",
    "encoders",
    "get",
    "io",
    "metrics",
    "models",
    "pl",
    "pp",
    "targets",
    "tl",
    "training",
]
HEAVY = {"torch", "squidpy", "scanpy", "matplotlib", "anndata", "pandas", "spatialdata", "scipy", "sklearn", "PIL"}


def loaded(code: str) -> tuple[set[str], float]:
    """Top-level modules in a fresh interpreter after `code`, and the seconds that it took."""
    program = f"import sys, time, json; t = time.perf_counter()\n{code}\nt = time.perf_counter() - t\n"
    program += "print(json.dumps([sorted({name.split('.')[0] for name in sys.modules}), t]))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules, seconds = json.loads(result.stdout)
    return set(modules), seconds


def test_import_is_light(capsys: pytest.CaptureFixture) -> None:
    modules, seconds = loaded("import stpredict; stpredict.settings; dir(stpredict)")
    with capsys.disabled():
        print(f" [import stpredict: {seconds:.3f} s] ", end="")
    assert not modules & HEAVY


@pytest.mark.parametrize("namespace", ["cohorts", "datasets", "get", "io", "metrics", "pl", "pp", "targets", "tl"])
def test_namespaces_import_no_heavy_library(namespace: str) -> None:
    modules, _ = loaded(f"import stpredict; stpredict.{namespace}")
    assert not modules & HEAVY


def test_dir_and_unknown_names() -> None:
    assert dir(stp) == sorted([*NAMESPACES, "Cohort", "__version__", "concat", "settings"])
    assert set(stp.__all__) == set(dir(stp))
    with pytest.raises(AttributeError, match="no attribute 'tools'; the namespaces are cohorts"):
        _ = stp.tools
    for name in stp.__all__:
        assert getattr(stp, name) is not None


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_public_name_exists_and_is_documented(namespace: str) -> None:
    module = importlib.import_module(f"stpredict.{namespace}")
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            assert inspect.getdoc(value), f"{namespace}.{name} has no docstring"


@pytest.mark.parametrize("namespace", sorted({*NAMESPACES} - {"targets"}))
def test_functions_say_what_they_take_return_and_refuse(namespace: str) -> None:
    """Sections without anything to say are left out by functions without parameters, and by listings."""
    module = importlib.import_module(f"stpredict.{namespace}")
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.isfunction(value):
            continue
        text = inspect.getdoc(value) or ""
        sections = ["Returns"] + (["Parameters"] if inspect.signature(value).parameters else [])
        sections += ["Raises"] if not name.startswith(("list_", "color_texture_names", "nuclei_names")) else []
        missing = [section for section in sections if f"{section}\n---" not in text]
        assert not missing, f"{namespace}.{name} lacks {missing}"


@pytest.mark.parametrize("namespace", ["cohorts", "datasets", "io", "pl", "pp", "tl"])
def test_functions_take_options_by_keyword(namespace: str) -> None:
    """After the third argument everything is keyword-only, and every parameter is in the docstring."""
    module = importlib.import_module(f"stpredict.{namespace}")
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.isfunction(value):
            continue
        parameters = inspect.signature(value).parameters
        text = inspect.getdoc(value) or ""
        for parameter in parameters:
            assert parameter in text, f"{namespace}.{name} does not document {parameter}"
        positional = [p for p in parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
        assert len(positional) <= 4, f"{namespace}.{name} takes {len(positional)} positional arguments"


def test_what_is_imported_is_required() -> None:
    """No package is here only because another one wants it today; those of extras are asked for by `optional_import`.

    Where an object of such a package is passed in, it is installed.
    """
    root = Path(__file__).parents[1]
    statement = re.compile(r"^ *(?:from ([a-zA-Z]\w*)[\w.]* import|import ([a-zA-Z]\w*))", re.MULTILINE)
    imported = {a or b for path in (root / "src").rglob("*.py") for a, b in statement.findall(path.read_text())}
    assert {"numpy", "torch", "stpredict"} <= imported
    names = {"PIL": "pillow", "ot": "pot", "skimage": "scikit-image", "sklearn": "scikit-learn"}
    required = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    found = {re.split(r"[><=\[]", one)[0] for one in required}
    loose = {names.get(package, package) for package in imported - set(sys.stdlib_module_names)} - found
    assert loose == {"stpredict", "distributed", "wsidata"}


def test_one_version_everywhere() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["version"] == stp.__version__
    if (cited := root / "CITATION.cff").is_file():  # it is no part of a source distribution
        fields = dict(line.split(": ", 1) for line in cited.read_text().splitlines() if re.match(r"[a-z-]+: ", line))
        assert fields["version"] == stp.__version__
        assert fields["license"] == project["license"]
        assert fields["url"].strip('"') == project["urls"]["Documentation"]
