"""What pages say about the package is so."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import stpredict as stp

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def texts() -> list[str]:
    """Every piece of text in the source, as it is printed between two values."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.walk(ast.parse(path.read_text()))
        found += [node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return found


def test_messages_of_the_troubleshooting_page_exist() -> None:
    rows = re.findall(r"^\| `(.+?)` \| ", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    known = texts()
    assert [row for row in rows if not any(row in text for text in known)] == []


def test_every_plot_is_in_the_gallery(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    sys.modules.pop("gallery", None)
    from gallery import GALLERY

    assert sorted(GALLERY) == sorted(stp.pl.__all__)


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = " ".join(path.read_text() for path in (DOCS / "index.md", DOCS / "how-to" / "index.md"))
    entries = set(re.findall(r"^([\w/-]+)$", listed, re.MULTILINE))
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert sorted(pages - entries) == []
    assert sorted({path.stem for path in (DOCS / "how-to").glob("*.md")} - {"index"} - entries) == []


#: Calls that need an extra; a how-to that shows one says how to get it.
_NEEDS = {
    "wsi": r"io\.open_slide\(|stpredict predict slides",
    "viz": r"pl\.explore\(|import spatialdata_plot",
    "encoders": r"\"(?:uni2-h|uni|phikon-v2)\", weights|push_to_hub\(",
    "dask": r"client=Client\(",
    "text": r"gene_table\([^)]*\"text\"",
    "dna": r"io\.read_sequences\(",
    "survival": r"tl\.survival\(",
}


def test_guides_name_the_extras_that_they_need() -> None:
    missing = []
    for page in sorted((DOCS / "how-to").glob("*.md")):
        text = page.read_text()
        named = {one for many in re.findall(r"(?:histology\[|extra `)([\w,]+)", text) for one in many.split(",")}
        missing += [
            (page.name, extra) for extra, call in _NEEDS.items() if re.search(call, text) and not {extra, "all"} & named
        ]
    assert missing == []
