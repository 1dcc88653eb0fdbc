"""Every python block of the pages runs, in order, in one namespace per page."""

from __future__ import annotations

import re
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in (*DOCS.glob("*.md"), *DOCS.glob("how-to/*.md")))
_FENCE = re.compile(
    r"^```(?:python(?P<mark>[^\n]*)|\{code-cell\})\n(?:\:tags:[^\n]*\n\n)?(?P<code>.*?)^```", re.MULTILINE | re.DOTALL
)


def blocks(text: str) -> list[tuple[int, str, str]]:
    """Line, mark and code of every python block of a page."""
    return [
        (text.count("\n", 0, m.start("code")) + 1, (m["mark"] or "").strip(), m["code"]) for m in _FENCE.finditer(text)
    ]


def with_code() -> list[str]:
    return [page for page in PAGES if any(mark != "no-run" for _, mark, _ in blocks((DOCS / page).read_text()))]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all pages: they show the same sections."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def environment(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A temporary folder to work in, no windows, no progress bars, registries as before, sections simulated once.

    Folds run in this process: starting others takes longer than all pages, and has tests of its own.
    """
    import joblib
    import matplotlib.pyplot as plt

    import stpredict as stp
    from stpredict.encoders._registry import ENCODERS
    from stpredict.models.base._registry import MODELS

    with warnings.catch_warnings():  # of what the packages for slides warn about when they are first imported
        warnings.simplefilter("ignore")
        if find_spec("wsidata"):
            import wsidata  # noqa: F401

    for registry in (ENCODERS, MODELS):
        list(registry)  # fills it; then it is copied
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.chdir(tmp_path)
    for name, value in {"cache_dir": cache_dir, "progress": False, "device": "auto"}.items():
        monkeypatch.setattr(stp.settings, name, value)
    monkeypatch.setattr(stp.datasets, "synthetic_cohort", simulated)
    plt.switch_backend("agg")
    with joblib.parallel_config(backend="sequential"):
        yield
    plt.close("all")


def simulated(*args, **kwargs):
    """Copy of the cohort, which takes seconds to simulate."""
    return _simulated(args, tuple(sorted(kwargs.items()))).copy()


@cache
def _simulated(args: tuple, kwargs: tuple):
    from stpredict.datasets._synthetic_cohort import synthetic_cohort

    return synthetic_cohort(*args, **dict(kwargs))


def test_pages_are_found_and_marks_are_known() -> None:
    assert {"index.md", "quickstart.md", "how-to/network.md"} <= set(with_code())
    marks = {mark for page in PAGES for _, mark, _ in blocks((DOCS / page).read_text())}
    assert marks <= {"", "no-run"}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_python(page: str) -> None:
    for line, _, code in blocks((DOCS / page).read_text()):
        compile("\n" * (line - 1) + code, page, "exec")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("page", with_code())
def test_page_runs(page: str) -> None:
    namespace = {"__name__": "__main__"}
    for line, mark, code in blocks((DOCS / page).read_text()):
        if mark != "no-run":
            exec(compile("\n" * (line - 1) + code, page, "exec"), namespace)


README = DOCS.parent / "README.md"


@pytest.mark.usefixtures("environment")
def test_readme_runs() -> None:
    """The lines as printed."""
    namespace = {"__name__": "__main__"}
    for line, _, code in blocks(README.read_text()):
        exec(compile("\n" * (line - 1) + code, "README.md", "exec"), namespace)
    assert namespace["test"].obsm["predicted"].shape == namespace["test"].shape


def test_readme_is_short_and_leads_to_what_is_there() -> None:
    import stpredict as stp

    text = README.read_text()
    assert len(text.splitlines()) <= 90
    paths = [link.split("#")[0] for link in re.findall(r"\]\((?!http)([^)]+)\)", text)]
    assert len(paths) > 10
    assert [path for path in paths if not (DOCS.parent / path).exists()] == []
    assert f"{len(stp.models.list_models())} models, one API" in text
