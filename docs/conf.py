"""Configuration of the documentation, and the tables that it takes from the registries at build time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from sphinx.ext.autosummary.generate import generate_autosummary_docs
from sphinx.ext.napoleon import NumpyDocstring

import stpredict as stp

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from choosing import choosing  # noqa: E402
from recipes import PUBLISHED, recipes  # noqa: E402

project = "stpredict"
author = "The stpredict developers"
copyright = author
version = release = stp.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_generated", "**.ipynb_checkpoints"]

# Every tutorial is executed once, at build; an error in a cell, or a warning among its outputs, is one of the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_output_stderr = "warn"
os.environ.pop("MPLBACKEND", None)  # figures go into the page
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of tqdm, without widgets
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "literal"
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
typehints_defaults = "braces"
always_use_bars_union = True
# Types that are imported for type checkers only are shown as written.
suppress_warnings = ["sphinx_autodoc_typehints.guarded_import", "sphinx_autodoc_typehints.forward_reference"]

# Every reference leads somewhere. Types of other packages do where their inventories can be fetched; names of attributes that
# are described together are taken for types by napoleon, and bases that are no part of the API have no page.
nitpicky = True
_OTHERS = "abc|anndata|anndata_plot|collections|dask|lightning|matplotlib|numpy|os|pandas|pathlib|pingouin|scanpy|scipy|shapely|sklearn|"
_OTHERS += "spatialdata|squidpy|statsmodels|torch|typing"
nitpick_ignore_regex = [
    (r"py:.*", rf"({_OTHERS})(\..*)?"),
    (r"py:data", r"Ellipsis"),
    (r"py:class", r"[a-z_]+"),
    (r"py:.*", r"stpredict\.(.*\.)?_.*"),
]
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

html_theme = "sphinx_book_theme"
html_title = "stpredict"
html_show_sourcelink = False
html_theme_options = {"show_navbar_depth": 1, "show_toc_level": 2, "navbar_persistent": []}
html_static_path = ["_static"]
html_css_files = ["stpredict.css"]
copybutton_prompt_text = ">>> |\\.\\.\\. "
copybutton_prompt_is_regexp = True


def _cite(key: str) -> str:
    return f"{{cite:p}}`{key}`" if key else ""


def _table(columns: dict[str, list[Any]]) -> str:
    rows = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    rows += ["| " + " | ".join(str(value) for value in row) + " |" for row in zip(*columns.values(), strict=True)]
    return "\n".join(rows) + "\n"


def _encoders() -> str:
    table = stp.encoders.list_encoders()
    access = [
        "embedded"
        if not row.filename
        else "gated"
        if row.gated
        else "open"
        if row.source.count("/") == 1
        else "by hand"
        for row in table.itertuples()
    ]
    return _table(
        {
            "name": [f"`{name}`" for name in table.index],
            "features": list(table["dim"]),
            "tile": [f"{row.tile_px}\u00a0px<br>{row.tile_um:g}\u00a0µm" for row in table.itertuples()],
            "license of the weights": list(table["license"]),
            "weights": access,
            "source": list(table["source"]),
            "paper": [_cite(key) for key in table["citation"]],
        }
    )


def _models() -> str:
    table = stp.models.list_models()
    return _table(
        {
            "model": [f"[`{name}`](#{name})" for name in table.index],
            "a step is made of": list(table["draws"].replace("rows", "observations")),
            "reads": list(table["needs"].replace("", "nothing")),
            "description": list(table["description"]),
            "paper": [_cite(key) for key in table["paper"]],
            "license of the reference": list(
                table["license_of_reference"].replace({"": "\u2013", "none": "no license given"})
            ),
        }
    )


def _hyperparameters(name: str) -> str:
    from dataclasses import fields

    info = stp.models.get_model(name)
    known = fields(info.config)
    if not known:
        return "It has no hyperparameters.\n"
    presets = ", ".join(f"`{preset!r}`" for preset in info.presets)
    named = ", ".join(f"`{field.name}={field.default!r}`" for field in known)
    return f"Hyperparameters: {named}. Presets: {presets}.\n"


def _check_recipes() -> None:
    missing = [
        n for n in stp.models.list_models().index if "paper" in stp.models.get_model(n).presets and n not in PUBLISHED
    ]
    if missing:
        raise KeyError(f"expected what was published for each preset 'paper' in docs/recipes.py; missing {missing}")


def _networks() -> str:
    """The classes of the registered networks, as `autosummary` lists them."""
    names = sorted(stp.models.get_model(name).cls.__name__ for name in stp.models.list_models().index)
    lines = [".. currentmodule:: stpredict", "", ".. autosummary::", "   :toctree: generated", ""]
    return "\n".join(["```{eval-rst}", *lines, *(f"   models.{name}" for name in names), "```"]) + "\n"


def _outputs() -> str:
    """Which call writes which slot, as the docstrings say under *Returns*."""
    slot = re.compile(r"``?((?:obsm?|varm?|uns|layers|shapes|tables|attrs|X)(?:\[[^`]+\])?)``?")
    calls, writes = [], []
    for space in (stp.pp, stp.tl):
        for name in space.__all__:
            text = getattr(space, name).__doc__ or ""
            returns = re.search(r"\n *Returns\n *-+\n(.*?)(?=\n *[A-Z]\w+\n *-+\n|\Z)", text, re.DOTALL)
            named = slot.findall(returns[1]) if returns else []
            found = [each for each in dict.fromkeys(named) if each == "X" or "[" in each]
            if found:
                calls.append(f"{{func}}`{space.__name__.split('.')[-1]}.{name} <{space.__name__}.{name}>`")
                writes.append(", ".join(f"`{each}`" for each in found))
    return _table({"call": calls, "writes": writes})


def _dimensions(names: list[str]) -> str:
    return ", ".join(f"{number} `{name}`" for number, name in enumerate(names)) + ".\n"


def write_tables(*_: Any) -> None:
    """Write what the pages include, where it differs from what is there."""
    _check_recipes()
    folder = HERE / "_generated"
    folder.mkdir(exist_ok=True)
    contents = {"encoders.md": _encoders(), "models.md": _models()}
    contents |= {"color_texture.md": _dimensions(stp.encoders.color_texture_names())}
    contents |= {"nuclei.md": _dimensions(stp.encoders.nuclei_names())}
    contents |= {"networks.md": _networks(), "recipes.md": _table(recipes()), "choosing.md": _table(choosing())}
    contents |= {"outputs.md": _outputs()}
    contents |= {f"model_{name}.md": _hyperparameters(name) for name in stp.models.list_models().index}
    for name, text in contents.items():
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def copy_tutorials(*_: Any) -> None:
    """Put the notebooks where Sphinx finds them, where they differ from what is there."""
    folder = HERE / "tutorials"
    folder.mkdir(exist_ok=True)
    contents = {path.name: path.read_bytes() for path in (HERE.parent / "tutorials").glob("*.ipynb")}
    for path in folder.iterdir():
        if path.name not in contents:
            path.unlink()
    for name, content in contents.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)


def draw_gallery(*_: Any) -> None:
    """Draw the gallery in a process of its own, unless nothing changed since it was drawn."""
    sources = [HERE / "gallery.py", *Path(stp.__file__).parent.rglob("*.py")]
    index = HERE / "gallery" / "index.md"
    if not index.is_file() or index.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        subprocess.run([sys.executable, str(HERE / "gallery.py"), str(index.parent)], check=True)


def _returns(self: NumpyDocstring, preprocess_types: bool = False) -> list[tuple[str, str, list[str]]]:
    lines = self._dedent(self._consume_to_next_section())
    lines = lines[1:] if lines[:1] == [":"] else lines  # put there by sphinx_autodoc_typehints
    if len(lines) > 1 and lines[1].startswith(" "):  # a type above its description; the type is in the hints
        lines = lines[1:]
    return [("", "", self._dedent(lines))]


# What a function returns is told in sentences and lists, which napoleon would take line by line for names and types.
NumpyDocstring._consume_returns_section = _returns  # type: ignore[method-assign]


def write_networks(app: Any) -> None:
    """Write a page for each network, since `autosummary` looks for names in pages and not in what they include."""
    generate_autosummary_docs(
        ["networks.md"], str(HERE / "generated"), ".rst", str(HERE / "_generated"), app=app, overwrite=False
    )


def setup(app: Any) -> None:
    """Write the tables and copy the tutorials before the pages are read."""
    app.connect("builder-inited", write_tables)
    app.connect("builder-inited", write_networks)
    app.connect("builder-inited", copy_tutorials)
    app.connect("builder-inited", draw_gallery)
