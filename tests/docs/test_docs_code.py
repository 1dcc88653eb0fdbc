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
_FENCE = re.compile(r"^```python(?P<mark>[^\n]*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[int, str, str]]:
    """Line, mark and code of every python block of a page."""
    return [(text.count("\n", 0, m.start()) + 2, m["mark"].strip(), m["code"]) for m in _FENCE.finditer(text)]


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


@pytest.mark.usefixtures("environment")
def test_readme_runs(monkeypatch) -> None:
    """The lines as printed, on stand-ins for the files that they name and with small networks."""
    from functools import partial

    import stpredict as stp

    pytest.importorskip("wsidata")
    adata = simulated(2, 1, 20, n_spots=36, microns_per_pixel=4.0)
    adata.var_names = ["ERBB2", *adata.var_names[1:]]
    monkeypatch.setattr(stp.io, "read_her2st", lambda folder, sections: adata.copy())
    bulk = stp.datasets.synthetic_slides(
        6, n_genes=12, image_dir="slides", slide_um=500, microns_per_pixel=4, censoring=0
    )
    bulk.var_names = ["ERBB2", "CD8A", *bulk.var_names[2:]]
    Path("slide.svs").write_bytes(Path(bulk.obs["path"].iloc[0]).read_bytes())
    bulk.write_h5ad("bulk.h5ad")
    short = {"max_epochs": 1, "patience": 0}
    cross_validate = stp.tl.cross_validate
    monkeypatch.setattr(
        stp.tl, "cross_validate",
        lambda adata, models, **options: cross_validate(
            adata, {name: {"model": name} | ({"training": short} if name == "mlp" else {}) for name in models}, **options
        ),
    )  # fmt: skip
    monkeypatch.setattr(stp.tl, "fit_folds", partial(stp.tl.fit_folds, hyperparameters="small", training=short))
    text = (DOCS.parent / "README.md").read_text()
    namespace = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the stand-ins are coarse
        for line, _, code in blocks(text):
            exec(compile("\n" * (line - 1) + code, "README.md", "exec"), namespace)
    assert {"ERBB2"} <= set(stp.get.predicted(namespace["slide"]).var_names)
