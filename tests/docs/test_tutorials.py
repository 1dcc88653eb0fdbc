"""Tutorials are executed when the documentation is built; what is checked here is how they are committed."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parents[2] / "tutorials").glob("*.ipynb"))


def test_tutorials_are_found() -> None:
    assert "slide_to_map.ipynb" in {path.name for path in TUTORIALS}


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.name)
def test_notebook_is_clean(path: Path) -> None:
    """No outputs, no counts of executions, nothing of the machine it was written on."""
    notebook = json.loads(path.read_text())
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert "".join(notebook["cells"][0]["source"]).startswith("# ")
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            ast.parse("".join(cell["source"]))
