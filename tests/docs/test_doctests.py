"""The examples in the docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest

import stpredict

DOCS = Path(__file__).parents[2] / "docs"
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(stpredict.__path__, "stpredict.")
    if not info.name.endswith("__main__") and ">>>" in (Path(importlib.util.find_spec(info.name).origin).read_text())
)
FUNCTIONS = {"Cohort", "concat"}  # at the top level
NAMESPACES = [name for name in stpredict.__all__ if name not in {"__version__", "settings", *FUNCTIONS}]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A temporary folder and cache, no windows, no progress bars, registries as before."""
    import matplotlib.pyplot as plt

    from stpredict.encoders._registry import ENCODERS
    from stpredict.models.base._registry import MODELS

    for registry in (ENCODERS, MODELS):
        list(registry)  # fills it; then it is copied
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stpredict.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(stpredict.settings, "progress", False)
    monkeypatch.setattr(stpredict.datasets, "synthetic_cohort", simulated)
    plt.switch_backend("agg")
    yield
    plt.close("all")


def simulated(*args, **kwargs):
    """Copy of the cohort, which several examples share and takes seconds to simulate."""
    return _simulated(args, tuple(sorted(kwargs.items()))).copy()


@cache
def _simulated(args: tuple, kwargs: tuple):
    from stpredict.datasets._synthetic_cohort import synthetic_cohort

    return synthetic_cohort(*args, **dict(kwargs))


def test_examples_are_found() -> None:
    assert len(MODULES) > 20


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module(name: str) -> None:
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for test in finder.find(module, name) if test.examples]
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in tests:
        runner.run(test, out=report.append)
    assert tests, f"{name} mentions an example that doctest does not see"
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_skipped_examples_need_files(namespace: str) -> None:
    """An example may be skipped only where it reads or fetches data that is not in the package."""
    module = importlib.import_module(f"stpredict.{namespace}")
    for name in module.__all__:
        text = inspect.getdoc(getattr(module, name)) or ""
        skipped = [line for line in text.splitlines() if "doctest: +SKIP" in line]
        assert all(re.search(r"\.read_|PATH|datasets\.(her2st|visium)\(", line) for line in skipped), (
            namespace,
            name,
            skipped,
        )


def test_every_public_name_is_in_the_reference() -> None:
    page = (DOCS / "api.md").read_text()
    listed = {line.strip() for line in page.splitlines()}
    spaces = [*NAMESPACES, "training.targets"]
    public = FUNCTIONS | {
        f"{space}.{name}" for space in spaces for name in importlib.import_module(f"stpredict.{space}").__all__
    }
    assert not public - listed
    assert not {line for line in listed if re.fullmatch(r"[a-z]+(\.\w+)+", line)} - public


def test_every_network_is_in_the_reference_and_among_the_methods() -> None:
    """The reference is written from the registry, so that a new network touches its section of the methods only."""
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("conf", DOCS / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    listed = conf._networks()
    methods = (DOCS / "methods.md").read_text()
    models = stpredict.models
    for name in models.list_models().index:
        assert f"   models.{models.get_model(name).cls.__name__}\n" in listed
        assert f"({name})=\n## `{name}`\n" in methods, f"no section of docs/methods.md describes {name}"
        assert f"{{include}} _generated/model_{name}.md" in methods
    assert listed.count("models.") == len(models.list_models())
    assert "{include} _generated/networks.md" in (DOCS / "api.md").read_text()
